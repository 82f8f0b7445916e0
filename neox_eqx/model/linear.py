"""y = x Wᵀ + b, the weight as PyTorch stores it: (out, in).

The weight may be held in 16 bits where x is in float32: the sums are float32's own.

Layers act on the last axis of a batch, unlike those of `equinox.nn`, which take one example and are
vmapped: a cache write vmapped over rows becomes a scatter, where a batched one is a single
`dynamic_update_slice`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from neox_eqx.model.kernels import cpu, tpu
from neox_eqx.model.kernels.any import dot, is_few
from neox_eqx.sharding.rules import Placed


class Linear(Placed):
    """A weight in floating point. The classes that derive from it hold it in another form."""

    weight: Shaped[Array, "*L out in"]
    bias: Float[Array, "*L out"] | None
    axes: tuple[str, str] = eqx.field(static=True)

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

    @property
    def shape(self) -> tuple[int, ...]:
        """(*L, out, in), of the weight as a matrix."""
        return self.weight.shape

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return self.add_bias(self.product(x))

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype."""
        return project(x, self.weight)

    def dense(self) -> Float[Array, "*L out in"]:
        """The weight as a matrix of numbers."""
        return self.weight

    def add_bias(self, y: Float[Array, "*B out"]) -> Float[Array, "*B out"]:
        return y if self.bias is None else y + self.bias


def project(x: Float[Array, "*B in"], weight: Float[Array, "out in"]) -> Float[Array, "*B out"]:
    """x Wᵀ in x's dtype; what is in 16 bits is summed in float32."""
    if not (is_few(x) or cpu.has_kernel(weight)):
        return dot(x, weight)
    on_tpu = partial(tpu.with_full_tiles, dot) if is_few(x) else dot
    return lax.platform_dependent(x, weight, cpu=cpu.dot, tpu=on_tpu, default=dot)
