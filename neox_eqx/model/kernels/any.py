"""Products that XLA compiles well on every platform that has no file of its own here."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int8

FEW_ROWS = 16
"""Up to so many rows a product is bound by reading the weights; measured on two x86 cores."""


def is_few(x: Float[Array, "*B in"]) -> bool:
    """Whether x has so few rows that a product with it takes as long as reading the weight."""
    return math.prod(x.shape[:-1]) <= FEW_ROWS


def dot(x: Float[Array, "*B in"], weight: Float[Array, "out in"]) -> Float[Array, "*B out"]:
    """x Wᵀ in x's dtype. float32 stays float32 on accelerators, which would round it by default."""
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weight.astype(x.dtype), dims, precision=lax.Precision.HIGHEST)


def dequantize(
    weight: Int8[Array, "out in"], scale: Float32[Array, "out"], dtype: jnp.dtype
) -> Float[Array, "out in"]:
    """The weight in `dtype`: row r is scale[r] * weight[r]."""
    return (weight.astype(jnp.float32) * scale[:, None]).astype(dtype)


def dot_int8(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """x Wᵀ in x's dtype, where row r of W is scale[r] * weight[r].

    The scale is applied to the weight, which accelerators do as they read it. Applied to x Wᵀ it
    would need the sum over devices first: two products that are added would take two all-reduces.
    """
    return dot(x, dequantize(weight, scale, x.dtype))
