"""Measures the memory, time and bytes read of loading a checkpoint of random parameters.

python benchmarks/load.py --preset pythia-1.4b
python benchmarks/load.py --preset pythia-410m --processes 4 --mesh model=4
"""

import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx import PRESETS, GPTNeoXConfig, InputError, load
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import initialize
from neox_eqx.shown import shown
from neox_eqx.sizes import size_text

ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 400e6


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory, time and bytes read of loading a checkpoint of random parameters."""

    preset: str = "pythia-1.4b"
    """Shape of the checkpoint; it is written to a temporary directory first."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the parameters in memory; the file is float32."""
    stacked: bool = False
    """Stack the layers, as for an accelerator."""
    processes: int = 1
    """Load in so many processes, as hosts of a pod with a device each and a disk of its own."""
    mesh: str = "auto"
    """Devices to spread rows and model over, as data=2,model=4."""
    directory: Path | None = None
    """Load the checkpoint that is here instead, in this very process, and print JSON."""


def main(options: Options) -> None:
    if options.directory:
        initialize()
        report = json.dumps(_measure(options.directory, options))
        print(report, file=sys.stderr)  # of each process, where only one prints to stdout
        return
    if options.preset not in PRESETS:
        raise InputError(f"no preset {shown(options.preset)}; there are {', '.join(PRESETS)}")
    with tempfile.TemporaryDirectory() as name:
        directories = [Path(name, str(number)) for number in range(options.processes)]
        for directory in directories:
            directory.mkdir()
            _write_checkpoint(directory, PRESETS[options.preset])
        for number, figures in enumerate(_measure_in_fresh_processes(directories, options)):
            _print(number, figures)


def _print(number: int, figures: dict[str, float]) -> None:
    held = figures["held_bytes"]
    bar = ALLOWED_SHARE * held + ALLOWED_BYTES
    print(
        f"process {number}: holds {size_text(held)} of parameters\t"
        f"peak memory {size_text(figures['peak_bytes'])} (at most {size_text(bar)})\t"
        f"read from disk {size_text(figures['read_bytes'])} ({figures['read_bytes'] / held:.3f} "
        f"of what it holds)\t{figures['seconds']:.1f} s"
    )


def _measure(directory: Path, options: Options) -> dict[str, float]:
    before, start = _bytes_read(), time.perf_counter()
    model = load(directory, dtype=options.dtype, stacked=options.stacked, mesh=options.mesh)
    jax.block_until_ready(model)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "held_bytes": sum(_held_bytes(leaf) for leaf in jax.tree.leaves(model)),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "read_bytes": _bytes_read() - before,
    }


def _held_bytes(array: jax.Array) -> int:
    """Of the parts of an array in this process, each counted once."""
    return sum({str(shard.index): shard.data.nbytes for shard in array.addressable_shards}.values())


def _bytes_read() -> int:
    """By this process from disk so far, and not from the page cache, as the kernel counts."""
    counters = Path("/proc/self/io").read_text().split()
    return int(counters[counters.index("read_bytes:") + 1])


def _measure_in_fresh_processes(
    directories: list[Path], options: Options
) -> list[dict[str, float]]:
    """Peak memory counts from the start of a process, and this one has written the files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    pod = {"PODRUN_COORDINATOR": coordinator, "PODRUN_NUM_PROCESSES": str(len(directories))}
    stacked = "--stacked" if options.stacked else "--no-stacked"
    command = [sys.executable, __file__, "--dtype", options.dtype, stacked, "--mesh", options.mesh]
    processes = [
        subprocess.Popen(
            [*command, "--directory", directory],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **pod, "PODRUN_PROCESS_ID": str(number)},
        )
        for number, directory in enumerate(directories)
    ]
    reports = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise InputError("a process failed: " + " ".join(reports))
    return [json.loads(report.splitlines()[-1]) for report in reports]


def _write_checkpoint(directory: Path, config: GPTNeoXConfig) -> None:
    shapes = parameters(model_shapes(config, jnp.dtype("float32"), stacked=False))
    layout = [(leaf.names[0], leaf.shape, np.dtype(np.float32)) for leaf in shapes]
    write_tensors(directory / "model.safetensors", layout, _random(layout))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    with open(directory / "model.safetensors", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # out of the page cache


def _random(layout: list[tuple[str, tuple[int, ...], np.dtype]]) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for _, shape, _ in layout:
        yield generator.standard_normal(shape, np.float32)


if __name__ == "__main__":
    run(main, Options)
