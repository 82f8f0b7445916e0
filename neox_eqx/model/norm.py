"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from neox_eqx.sharding.rules import Placed


class LayerNorm(Placed):
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
