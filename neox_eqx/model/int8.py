"""Weights in int8, half of bfloat16's bytes and a quarter of float32's to read for a token.

Row r of such a weight stands for scale[r] * weight[r].
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int8, Int32

Weight = TypeVar("Weight", np.ndarray, jax.Array)

LARGEST = 127
TINY = float(np.finfo(np.float32).tiny)

DIGIT_ROWS = 8
"""Up to so many rows products of digits are faster than float32's; measured on two x86 cores."""
_BASE = 2 * LARGEST


def quantize_rows(weight: Weight) -> tuple[Weight, Weight]:
    """A float32 weight (..., out, in) in int8, from -127 to 127, and the scale (..., out).

    A row's scale is a 127th of its largest value, and its values become the nearest multiples,
    the even one of two. The smallest normal number is the scale of a row of zeros.
    """
    # Not a division: XLA would make this product of it, which NumPy then would not equal.
    scale = (abs(weight).max(-1) * (1 / LARGEST)).clip(TINY)
    return (weight / scale[..., None]).round().astype(np.int8), scale


def dequantize(
    weight: Int8[Array, "out in"], scale: Float32[Array, "out"], dtype: jnp.dtype
) -> Float[Array, "out in"]:
    return (weight.astype(jnp.float32) * scale[:, None]).astype(dtype)


def project_on_cpu(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """x Wᵀ by reading the weight as it lies: a CPU would write a float copy of all of it first."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    summable = rows.shape[-1] * LARGEST**2 <= jnp.iinfo(jnp.int32).max
    if len(rows) <= DIGIT_ROWS and summable:
        y = _project_digits(rows, weight)
    else:
        # Out of a loop of decoding steps XLA would move the conversion of all weights, and keep it.
        rows, weight = lax.optimization_barrier((rows, weight))
        y = (weight[:, None].astype(jnp.float32) * rows).sum(-1).T
    return (y * scale).astype(x.dtype).reshape(*x.shape[:-1], -1)


def _project_digits(
    rows: Float32[Array, "B in"], weight: Int8[Array, "out in"]
) -> Float32[Array, "B out"]:
    """The rows as three digits of int8 each, whose products and sums with int8 are exact.

    Of a row, three digits hold all but 2**-24 of its largest value, which is float32's own error.
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
