"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), of a Linear."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from neox_eqx.model.dropout import drop
from neox_eqx.model.linear import Linear


def lora_scale(alpha: float, rank: int, use_rslora: bool) -> float:
    """alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)


class LoRALinear(eqx.Module):
    """y = x Wᵀ + b + scale · B (A x), without ever computing W + scale · B A.

    The names are PEFT's, and so is the scale. `lora_A` is (rank, in) and `lora_B` (out, rank), both
    without a bias. Their `axes` say where they lie on a mesh, which never splits the rank.
    """

    base_layer: Linear
    lora_A: Linear
    lora_B: Linear
    alpha: float = eqx.field(static=True)
    use_rslora: bool = eqx.field(static=True, default=False)
    dropout: float = eqx.field(static=True, default=0.0)
    """Rate of dropout on A's input, where there is a `key`: in training."""
    key: PRNGKeyArray | None = None

    @classmethod
    def init(
        cls,
        base: Linear,
        rank: int,
        alpha: float,
        key: PRNGKeyArray,
        *,
        use_rslora: bool = False,
        dropout: float = 0.0,
    ) -> "LoRALinear":
        """LoRA that changes nothing yet, as PEFT begins: B is 0, and A uniform within ±1/√in.

        A and B are in float32, with a layer axis where the weight has one.
        """
        *layers, out, size = base.shape
        bound = size**-0.5
        a = jax.random.uniform(key, (*layers, rank, size), jnp.float32, -bound, bound)
        b = jnp.zeros((*layers, out, rank), jnp.float32)
        of_out, of_in = base.axes
        lora_a, lora_b = Linear(a, None, ("rank", of_in)), Linear(b, None, (of_out, "rank"))
        return cls(base, lora_a, lora_b, alpha, use_rslora, dropout)

    @property
    def rank(self) -> int:
        return self.lora_A.weight.shape[-2]

    @property
    def scale(self) -> float:
        return lora_scale(self.alpha, self.rank, self.use_rslora)

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return self.add_bias(self.product(x))

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        within = self.lora_A(x if self.key is None else drop(x, self.dropout, self.key))
        within = within * jnp.asarray(self.scale, within.dtype)
        return self.base_layer.product(x) + self.lora_B(within)

    def add_bias(self, y: Float[Array, "*B out"]) -> Float[Array, "*B out"]:
        return self.base_layer.add_bias(y)

    def merged(self) -> Linear:
        """The Linear that does the same, summed in float32 and rounded once to the base's dtype.

        Of a base in few bits that is float32.
        """
        base, weight = self.base_layer, self.base_layer.dense()
        a, b = (linear.weight.astype(jnp.float32) for linear in (self.lora_A, self.lora_B))
        added = self.scale * jnp.matmul(b, a, precision=lax.Precision.HIGHEST)
        summed = (weight.astype(jnp.float32) + added).astype(weight.dtype)
        return Linear(summed, base.bias, base.axes)
