"""What an accelerator can do at most: bytes of memory a second, and products of matrices."""

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

TRIES = 10


def facts() -> dict[str, Any]:
    """The card, and what runs it."""
    device = jax.devices()[0]
    found = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    if shutil.which("nvidia-smi"):
        query = [
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        found["card"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


def bandwidth(size: int) -> float:
    """Bytes a second that are read and written in a copy of `size` bytes."""
    x = jnp.zeros(size // 4, jnp.float32)
    return 2 * size / least_seconds(jax.jit(lambda x: x + 1), x)


def matrix_rate(width: int) -> float:
    """Operations a second of a product of two square matrices in bfloat16."""
    x = jnp.ones((width, width), jnp.bfloat16)
    return 2 * width**3 / least_seconds(jax.jit(jnp.matmul), x, x)


def least_seconds(function: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    """The fastest of TRIES calls, after one that compiles."""
    function(*arrays).block_until_ready()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        function(*arrays).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
