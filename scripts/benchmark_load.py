"""Measures the memory and time of loading a checkpoint of random parameters.

python scripts/benchmark_load.py --preset pythia-1.4b
"""

import dataclasses
import json
import os
import resource
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
from neox_eqx.checkpoint.load import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.command_line import run

ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 400e6


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory and time of loading a checkpoint of random parameters."""

    preset: str = "pythia-1.4b"
    """Shape of the checkpoint; it is written to a temporary directory first."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the parameters in memory; the file is float32."""
    stacked: bool = False
    """Stack the layers, as for an accelerator."""
    directory: Path | None = None
    """Load the checkpoint that is here instead, in this very process, and print JSON."""


def main(options: Options) -> None:
    if options.directory:
        print(json.dumps(_measure(options.directory, options)))
        return
    if options.preset not in PRESETS:
        raise InputError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    with tempfile.TemporaryDirectory() as name:
        _write_checkpoint(Path(name), PRESETS[options.preset])
        figures = _measure_in_fresh_process(name, options)
    bar = ALLOWED_SHARE * figures["parameter_bytes"] + ALLOWED_BYTES
    print(f"parameters: {figures['parameter_bytes'] / 1e6:.0f} MB")
    print(f"peak memory of the process: {figures['peak_bytes'] / 1e6:.0f} MB", end="")
    print(f"\tat most: {bar / 1e6:.0f} MB")
    print(f"time: {figures['seconds']:.1f} s")


def _measure(directory: Path, options: Options) -> dict[str, float]:
    start = time.perf_counter()
    model = load(directory, dtype=options.dtype, stacked=options.stacked)
    jax.block_until_ready(model)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "parameter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _measure_in_fresh_process(directory: str, options: Options) -> dict[str, float]:
    """Peak memory counts from the start of a process, and this one has written the file."""
    stacked = "--stacked" if options.stacked else "--no-stacked"
    command = [sys.executable, __file__, "--directory", directory, "--dtype", options.dtype]
    done = subprocess.run(
        [*command, stacked], stdout=subprocess.PIPE, check=True, text=True, env=dict(os.environ)
    )
    return json.loads(done.stdout)


def _write_checkpoint(directory: Path, config: GPTNeoXConfig) -> None:
    shapes = parameters(model_shapes(config, jnp.dtype("float32"), stacked=False))
    layout = [(leaf.names[0], leaf.shape, np.dtype(np.float32)) for leaf in shapes]
    write_tensors(directory / "model.safetensors", layout, _random(layout))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))


def _random(layout: list[tuple[str, tuple[int, ...], np.dtype]]) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for _, shape, _ in layout:
        yield generator.standard_normal(shape, np.float32)


if __name__ == "__main__":
    run(main, Options)
