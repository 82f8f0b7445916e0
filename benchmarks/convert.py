"""Measures the memory and time of converting a checkpoint of random parameters.

python benchmarks/convert.py --preset polyglot-ko-3.8b --to native
"""

import dataclasses
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from neox_eqx import PRESETS, GPTNeoXConfig, InputError
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.command_line import run
from neox_eqx.convert.config_out import to_text
from neox_eqx.convert.hf_out import write_hf
from neox_eqx.convert.source import CONFIG
from neox_eqx.shown import shown
from neox_eqx.sizes import size_text

ALLOWED_BYTES = 2e9
_POOL_ELEMENTS = 2**24


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory and time of converting a checkpoint of random parameters."""

    preset: str = "polyglot-ko-3.8b"
    """Shape of the checkpoint."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float16"
    """Of its parameters."""
    to: Literal["hf", "native", "neox"] = "native"
    """Layout of the result."""
    directory: Path | None = None
    """Where to put both, which takes twice the size; a temporary directory if not given."""


@dataclasses.dataclass(frozen=True)
class _Random:
    """A tensor of numbers drawn once for all tensors, from another place on for each."""

    name: str
    shape: tuple[int, ...]
    pool: np.ndarray
    path: Path = Path("random")

    @property
    def dtype(self) -> np.dtype:
        return self.pool.dtype

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        sizes = [
            len(range(*part.indices(size))) for part, size in zip(index, self.shape, strict=True)
        ]
        start = sum(self.name.encode()) + (index[0].start or 0)
        return np.resize(np.roll(self.pool, start), sizes)


def main(options: Options) -> None:
    if options.preset not in PRESETS:
        raise InputError(f"no preset {shown(options.preset)}; there are {', '.join(PRESETS)}")
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        source, result = Path(name, "source"), Path(name, "result")
        source.mkdir()
        entries = list(_entries(PRESETS[options.preset], options.dtype))
        total = sum(int(np.prod(entry.shape)) * entry.dtype.itemsize for entry in entries)
        if shutil.disk_usage(name).free < 2.2 * total:
            raise InputError(f"{name}: has too little room for twice {size_text(total)}")
        write_hf(entries, source, 5 * 10**9)
        (source / CONFIG).write_text(to_text(PRESETS[options.preset].to_hf()), encoding="utf-8")
        largest = max(int(np.prod(entry.shape)) * entry.dtype.itemsize for entry in entries)
        print(f"{size_text(total)} of parameters, the largest tensor {size_text(largest)}")
        read = _seconds(source, ["cat", *map(str, sorted(source.iterdir()))])
        program = [sys.executable, "-m", "neox_eqx", "convert"]
        command = [*program, str(source), str(result), "--to", options.to, "--no-verify"]
        took = _seconds(source, command)
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        print(f"peak memory {size_text(peak)} (at most {size_text(ALLOWED_BYTES)})")
        print(f"cat {read:.1f} s, conversion {took:.1f} s: {took / read:.1f} times as long")


def _entries(config: GPTNeoXConfig, dtype: str) -> Iterator[_Random]:
    pool = np.random.default_rng(0).normal(0, 0.02, _POOL_ELEMENTS).astype(jnp.dtype(dtype))
    for parameter in parameters(model_shapes(config, jnp.dtype(dtype), stacked=False)):
        yield _Random(parameter.names[0], parameter.shape, pool)


def _seconds(source: Path, command: list[str]) -> float:
    """What a command takes whose input has to come from disk."""
    for path in source.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main, Options)
