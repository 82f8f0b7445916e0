"""Products that XLA compiles well on every platform that has no file of its own here."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int8


def dot(x: Float[Array, "*B in"], weight: Float[Array, "out in"]) -> Float[Array, "*B out"]:
    """x Wᵀ. float32 stays float32 on accelerators, whose default would round it for speed."""
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weight, dims, precision=lax.Precision.HIGHEST)


def dequantize(
    weight: Int8[Array, "out in"], scale: Float32[Array, "out"], dtype: jnp.dtype
) -> Float[Array, "out in"]:
    """Row r is scale[r] * weight[r]."""
    return (weight.astype(jnp.float32) * scale[:, None]).astype(dtype)


def dot_int8(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """x Wᵀ. Accelerators apply the scale as they read the weight.

    Applied to the sum instead, it would keep the sums over devices of two products, which are
    added, from being one.
    """
    return dot(x, dequantize(weight, scale, x.dtype))
