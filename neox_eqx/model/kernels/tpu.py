"""Products on a TPU. What the compiler does alone was seen in its text for v5e (libtpu 0.0.51)."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

TILE_ROWS = 8
"""Rows in a TPU's tile of 32-bit numbers, 8 x 128."""


def with_full_tiles(
    product: Callable[..., Float[Array, "R out"]], x: Float[Array, "*B in"], *weight: Array
) -> Float[Array, "*B out"]:
    """`product(x, *weight)`, computed with x padded to a multiple of 8 rows: for fewer than a
    tile has, the compiler leaves the matrix unit out. The barrier hides that the rows are zeros."""
    rows = x.reshape(-1, x.shape[-1])
    full = jnp.pad(rows, ((0, -len(rows) % TILE_ROWS), (0, 0)))
    y = product(lax.optimization_barrier(full), *weight)[: len(rows)]
    return y.reshape(*x.shape[:-1], -1)
