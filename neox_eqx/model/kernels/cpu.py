"""Products on a CPU: by the library of `native`, and where there is none in pure JAX.

With few rows, reading the weights is all that takes time. XLA's CPU matrix product copies its right
side into another order first, and converts a weight of other dtypes as a whole (seen with JAX
0.10.2). What is here in JAX for few rows reads the weight once, as it lies.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int8, Int32

from neox_eqx.model.kernels import any as everywhere
from neox_eqx.native import library, products

DIGIT_ROWS = 8
"""Up to so many rows `_dot_digits` is faster than float32; measured on two x86 cores."""
LARGEST = 127
"""Of int8; -128 is left out, so that the range is symmetric."""
TINY = float(np.finfo(np.float32).tiny)
"""The smallest normal number: what a row of zeros is divided by."""
_BASE = 2 * LARGEST


def dot(x: Float[Array, "*B in"], weight: Float[Array, "out in"]) -> Float[Array, "*B out"]:
    """x Wᵀ in x's dtype, with float32 sums where either is in 16 bits and the rows are few."""
    if has_kernel(weight):
        return products.dot_16_bits(x, weight).astype(x.dtype)
    if everywhere.is_few(x):
        return dot_few_rows(x, weight)
    return everywhere.dot(x, weight)


def has_kernel(weight: Float[Array, "out in"]) -> bool:
    """Whether the library has products with it, for any number of rows. float32 is XLA's own."""
    return weight.dtype in (jnp.float16, jnp.bfloat16) and library.is_available()


def dot_few_rows(
    x: Float[Array, "*B in"], weight: Float[Array, "out in"]
) -> Float[Array, "*B out"]:
    """x Wᵀ by one loop over the weight's rows with a sum over each inside.

    A single row of float32 is a matrix-vector product, which XLA does at the speed of memory; a
    single row of 16 bits is doubled, or the loop would run on one core.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1:
        if x.dtype == weight.dtype == jnp.float32:
            return everywhere.dot(x, weight)
        rows = jnp.concatenate([rows, rows])
    products = weight[:, None].astype(jnp.float32) * rows.astype(jnp.float32)
    y = products.sum(-1).T.astype(x.dtype)
    return y[: math.prod(x.shape[:-1])].reshape(*x.shape[:-1], -1)


def dot_int8(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """x Wᵀ, where row r of W is scale[r] * weight[r], without a float copy of the weight."""
    if library.is_available():
        return products.dot_int8(x, weight, scale).astype(x.dtype)
    return dot_int8_in_jax(x, weight, scale)


def dot_int8_in_jax(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """The same without the library."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    summable = rows.shape[-1] * LARGEST**2 <= jnp.iinfo(jnp.int32).max
    if len(rows) <= DIGIT_ROWS and summable:
        y = _dot_digits(rows, weight)
    else:
        # Without it XLA would convert all weights before the decoding loop, and keep the copy.
        rows, weight = lax.optimization_barrier((rows, weight))
        y = (weight[:, None].astype(jnp.float32) * rows).sum(-1).T
    return (y * scale).astype(x.dtype).reshape(*x.shape[:-1], -1)


def _dot_digits(
    rows: Float32[Array, "B in"], weight: Int8[Array, "out in"]
) -> Float32[Array, "B out"]:
    """rows Wᵀ, with each number of `rows` as three int8 digits in base 254.

    Products of digits and int8 weights are summed exactly, in int32. What three digits leave out
    is at most about 2**-24 of a row's largest absolute value, as much as float32 itself.
    """
    unit = abs(rows).max(-1, keepdims=True).clip(TINY) / LARGEST
    rest, digits = rows / unit, []
    for _ in range(3):
        digit = rest.round()
        digits.append(digit.astype(jnp.int8))
        rest = (rest - digit) * _BASE
    high, middle, low = _sums(weight, digits)
    return (high + (middle + low / _BASE) / _BASE) * unit


def _sums(
    weight: Int8[Array, "out in"], digits: list[Int8[Array, "B in"]]
) -> Float32[Array, "3 B out"]:
    """One product for all digits, with the weight on the left: XLA copies what is on the right."""
    dims = (((1,), (1,)), ((), ()))
    sums: Int32[Array, "out n"] = lax.dot_general(
        weight, jnp.concatenate(digits), dims, preferred_element_type=jnp.int32
    )
    return sums.T.astype(jnp.float32).reshape(len(digits), -1, len(weight))
