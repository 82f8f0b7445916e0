"""Products on a TPU. What the compiler does alone was seen in its text for v5e (libtpu 0.0.40)."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

ROWS_OF_A_TILE = 8


def with_full_tiles(
    product: Callable[..., Float[Array, "R out"]], x: Float[Array, "*B in"], *weight: Array
) -> Float[Array, "*B out"]:
    """`product(x, *weight)`, computed with x padded to a multiple of 8 rows: for fewer than a
    tile has, the compiler leaves the matrix unit out. The barrier hides that the rows are zeros."""
    rows = x.reshape(-1, x.shape[-1])
    full = jnp.pad(rows, ((0, -len(rows) % ROWS_OF_A_TILE), (0, 0)))
    y = product(lax.optimization_barrier(full), *weight)[: len(rows)]
    return y.reshape(*x.shape[:-1], -1)
