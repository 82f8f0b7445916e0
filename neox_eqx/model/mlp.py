"""The feed-forward part of a layer."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.activations import activate
from neox_eqx.model.context import Context
from neox_eqx.model.linear import Linear
from neox_eqx.model.lora import LoRALinear


class MLP(eqx.Module):
    dense_h_to_4h: Linear | LoRALinear
    dense_4h_to_h: Linear | LoRALinear
    hidden_act: str = eqx.field(static=True)

    @classmethod
    def init(
        cls, config: GPTNeoXConfig, *, dtype: jax.typing.DTypeLike, key: PRNGKeyArray
    ) -> "MLP":
        size, inner = config.hidden_size, config.intermediate_size
        options: dict[str, Any] = dict(scale=config.initializer_range, dtype=dtype)
        keys = jax.random.split(key)
        return cls(
            Linear.init((inner, size), ("mlp", "embed"), key=keys[0], **options),
            Linear.init((size, inner), ("embed", "mlp"), key=keys[1], **options),
            config.hidden_act,
        )

    def __call__(self, x: Float[Array, "B T D"], context: Context) -> Float[Array, "B T D"]:
        """What the MLP adds to the residual stream."""
        return self.dense_4h_to_h.add_bias(self.before_bias(x, context))

    def before_bias(self, x: Float[Array, "B T D"], context: Context) -> Float[Array, "B T D"]:
        """As a call, without the last bias: on a mesh devices may still hold partial sums."""
        inner = context.place(self.dense_h_to_4h(x), "batch", None, "mlp")
        return self.dense_4h_to_h.product(activate(self.hidden_act, inner))
