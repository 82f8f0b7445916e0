"""Weights in each form of the library, with the float64 matrix that each stands for."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from neox_eqx.native import products, tiles

FORMS = ["float16", "bfloat16", "int8", "tiles4", "tiles8"]


@dataclasses.dataclass(frozen=True)
class Weight:
    exact: np.ndarray
    product: Callable[..., jax.Array]
    """Of x and the arrays."""
    arrays: tuple[jax.Array, ...]

    def __call__(self, x: np.ndarray | jax.Array) -> jax.Array:
        return jax.jit(self.product)(jnp.asarray(x), *self.arrays)


def weight(form: str, out: int, size: int, seed: int = 0) -> Weight:
    generator = np.random.default_rng(seed)
    if form in ("float16", "bfloat16"):
        values = generator.standard_normal((out, size)).astype(getattr(ml_dtypes, form, form))
        return Weight(values.astype(np.float64), products.dot_16_bits, (jnp.asarray(values),))
    scale = generator.uniform(0.01, 0.02, (out, -(-size // 32))).astype(np.float16)
    if form == "int8":
        values = generator.integers(-127, 128, (out, size)).astype(np.int8)
        wide = scale[:, 0].astype(np.float32)
        exact = values.astype(np.float64) * wide[:, None]
        return Weight(exact, products.dot_int8, (jnp.asarray(values), jnp.asarray(wide)))
    bits = int(form.removeprefix("tiles"))
    codes = generator.integers(0, 2**bits, (out, size)).astype(np.uint8)
    spread = np.repeat(scale.astype(np.float64), 32, axis=1)[:, :size]
    exact = (codes.astype(np.float64) - 2 ** (bits - 1)) * spread

    def product(x: jax.Array, *arrays: jax.Array) -> jax.Array:
        # A device may have some of the tiles.
        return products.dot_tiles(x, *arrays, out=min(out, tiles.TILE * len(arrays[0])))

    laid = tiles.tiled(codes, scale, bits=bits)
    return Weight(exact, product, tuple(jnp.asarray(array) for array in laid))


def rounded(x: np.ndarray) -> np.ndarray:
    """x in float64 as tiles take it: 32 numbers become multiples of a 127th of the largest."""
    full = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).astype(np.float32)
    groups = full.reshape(len(x), -1, 32)
    largest = abs(groups).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = np.where(largest > 0, np.round(groups * (np.float32(127) / largest)), 0)
    values = digits.astype(np.float64) * (largest / np.float32(127))
    return values.reshape(len(x), -1)[:, : x.shape[1]]


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
