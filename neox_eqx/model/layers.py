"""The three parameterised layers: Linear, LayerNorm and Embedding.

They act on the last axis of a batch, unlike `equinox.nn`, whose layers take one example and are
vmapped: a cache write vmapped over rows becomes a scatter, where a batched one is a single
`dynamic_update_slice`. `axes` names the logical axis of each weight dimension, for sharding.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int8, PRNGKeyArray

from neox_eqx.model.int8 import dequantize, project_on_cpu, quantize_rows

FEW_ROWS = 16
"""Up to so many rows a product is bound by reading the weights; measured on two x86 cores."""


class Linear(eqx.Module):
    """y = x Wᵀ + b, with the weight as PyTorch stores it: (out, in).

    Where `scale` is there, the weight is in int8, and row r of W is scale[r] * weight[r].
    """

    weight: Float[Array, "*L out in"] | Int8[Array, "*L out in"]
    bias: Float[Array, "*L out"] | None
    axes: tuple[str, str] = eqx.field(static=True)
    scale: Float32[Array, "*L out"] | None = None

    @classmethod
    def init(
        cls,
        shape: tuple[int, int],
        axes: tuple[str, str],
        *,
        use_bias: bool = True,
        scale: float,
        dtype: jax.typing.DTypeLike,
        key: PRNGKeyArray,
    ) -> "Linear":
        """Normal weights of standard deviation `scale` in `shape` (out, in), and zero bias."""
        weight = scale * jax.random.normal(key, shape, dtype)
        return cls(weight, jnp.zeros(shape[0], dtype) if use_bias else None, axes)

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return self.add_bias(self.product(x))

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return project(x, self.weight, self.scale)

    def add_bias(self, y: Float[Array, "*B out"]) -> Float[Array, "*B out"]:
        return y if self.bias is None else y + self.bias

    def quantized(self) -> "Linear":
        """The same with its weight in int8."""
        weight, scale = quantize_rows(self.weight.astype(jnp.float32))
        return dataclasses.replace(self, weight=weight, scale=scale)


class LayerNorm(eqx.Module):
    """Normalises the last axis by its mean and biased variance."""

    weight: Float[Array, "*L D"]
    bias: Float[Array, "*L D"]
    eps: float = eqx.field(static=True)
    axes: tuple[str] = eqx.field(static=True, default=("embed",))

    @classmethod
    def init(cls, size: int, eps: float, dtype: jax.typing.DTypeLike) -> "LayerNorm":
        return cls(jnp.ones(size, dtype), jnp.zeros(size, dtype), eps)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        # Statistics in float32: squares of bfloat16 activations lose the small differences.
        x32 = x.astype(jnp.float32)
        mean = x32.mean(-1, keepdims=True)
        variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
        normal = (x32 - mean) * lax.rsqrt(variance + self.eps)
        y = normal * self.weight.astype(jnp.float32) + self.bias.astype(jnp.float32)
        return y.astype(x.dtype)


class Embedding(eqx.Module):
    """One row of the weight for each token id."""

    weight: Float[Array, "V D"]
    axes: tuple[str, str] = eqx.field(static=True, default=("vocab", "embed"))

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self.weight[tokens]


def project(
    x: Float[Array, "*B in"],
    weight: Float[Array, "out in"] | Int8[Array, "out in"],
    scale: Float32[Array, "out"] | None = None,
) -> Float[Array, "*B out"]:
    """x Wᵀ, summed in float32 for 16-bit inputs; row r of an int8 W counts scale[r] times."""
    few = math.prod(x.shape[:-1]) <= FEW_ROWS
    if scale is not None:
        tpu = _project_full_tiles if few else _project
        args = (x, weight, scale)
        return lax.platform_dependent(*args, cpu=project_on_cpu, tpu=tpu, default=_project)
    if few:
        return lax.platform_dependent(
            x, weight, cpu=_project_few_rows, tpu=_project_full_tiles, default=_project
        )
    return _project(x, weight)


def _project(
    x: Float[Array, "*B in"],
    weight: Float[Array, "out in"] | Int8[Array, "out in"],
    scale: Float32[Array, "out"] | None = None,
) -> Float[Array, "*B out"]:
    """float32 stays float32 on accelerators, whose default would round it for speed.

    They apply a scale to the weight as they read it. Applied to the sum, it would keep the sums
    over devices of two products, which are added, from being one.
    """
    if scale is not None:
        weight = dequantize(weight, scale, x.dtype)
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weight, dims, precision=lax.Precision.HIGHEST)


def _project_full_tiles(
    x: Float[Array, "*B in"],
    weight: Float[Array, "out in"] | Int8[Array, "out in"],
    scale: Float32[Array, "out"] | None = None,
) -> Float[Array, "*B out"]:
    """Fills the 8 rows of a TPU's tile: fewer would not be given to its matrix unit."""
    rows = x.reshape(-1, x.shape[-1])
    full = jnp.pad(rows, ((0, -len(rows) % 8), (0, 0)))
    y = _project(lax.optimization_barrier(full), weight, scale)[: len(rows)]
    return y.reshape(*x.shape[:-1], -1)


def _project_few_rows(
    x: Float[Array, "*B in"], weight: Float[Array, "out in"]
) -> Float[Array, "*B out"]:
    """Reads the weights once, as they lie, where XLA's CPU matrix product first copies them.

    One loop over the weight's rows with a sum over each inside. A single row of float32 is a
    matrix-vector product, which XLA does at the speed of memory; a single row of 16 bits is
    doubled, or the loop would run on one core.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1:
        if x.dtype == jnp.float32:
            return _project(x, weight)
        rows = jnp.concatenate([rows, rows])
    products = weight[:, None].astype(jnp.float32) * rows.astype(jnp.float32)
    y = products.sum(-1).T.astype(x.dtype)
    return y[: math.prod(x.shape[:-1])].reshape(*x.shape[:-1], -1)
