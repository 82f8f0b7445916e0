"""One transformer layer."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.activations import activate
from neox_eqx.model.attention import Attention
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.flash import Flash
from neox_eqx.model.layers import LayerNorm, Linear
from neox_eqx.model.lora import LoRALinear
from neox_eqx.model.rotary import Rotary
from neox_eqx.model.segment import KV
from neox_eqx.sharding.rules import Place, anywhere


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

    def __call__(self, x: Float[Array, "B T D"], place: Place = anywhere) -> Float[Array, "B T D"]:
        """What the MLP adds, but for the bias of `dense_4h_to_h`."""
        inner = place(self.dense_h_to_4h(x), "batch", None, "mlp")
        return self.dense_4h_to_h.product(activate(self.hidden_act, inner))


class Block(eqx.Module):
    """Attention and MLP around the residual stream.

    Parallel: both read the same input, x + (attn(ln1 x) + mlp(ln2 x)). Sequential: the MLP
    reads what attention left, y = x + attn(ln1 x), then y + mlp(ln2 y).
    """

    input_layernorm: LayerNorm
    post_attention_layernorm: LayerNorm
    attention: Attention
    mlp: MLP
    use_parallel_residual: bool = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        config: GPTNeoXConfig,
        *,
        dtype: jax.typing.DTypeLike,
        heads: int | None = None,
        key: PRNGKeyArray,
    ) -> "Block":
        keys = jax.random.split(key)
        norm = LayerNorm.init(config.hidden_size, config.layer_norm_eps, dtype)
        return cls(
            norm,
            norm,
            Attention.init(config, dtype=dtype, heads=heads, key=keys[0]),
            MLP.init(config, dtype=dtype, key=keys[1]),
            config.use_parallel_residual,
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        rotary: Rotary,
        past: tuple[KV, ...],
        mask: Bool[Array, "B T U"] | Flash,
        dropout: Dropout | None = None,
        *,
        place: Place = anywhere,
    ) -> tuple[Float[Array, "B T D"], KV]:
        """The residual stream after this layer, and the new tokens' keys and values."""
        normal = self.input_layernorm(x)
        attended, new = self.attention(normal, rotary, past, mask, dropout, place=place)
        add_attention_bias = self.attention.dense.add_bias
        add_mlp_bias = self.mlp.dense_4h_to_h.add_bias
        if self.use_parallel_residual and dropout is None:
            # The branches are summed before their biases are added: on a mesh both are sums over
            # the devices, which then share one reduction.
            branches = attended + self.mlp(self.post_attention_layernorm(x), place)
            branches = place(branches, "batch", None, "embed")
            return x + add_mlp_bias(add_attention_bias(branches)), new
        attended = _drop(add_attention_bias(attended), dropout, 0)
        read = x if self.use_parallel_residual else x + attended
        added = _drop(
            add_mlp_bias(self.mlp(self.post_attention_layernorm(read), place)), dropout, 1
        )
        return x + attended + added, new


def _drop(x: Float[Array, "B T D"], dropout: Dropout | None, place: int) -> Float[Array, "B T D"]:
    return x if dropout is None else dropout.drop_hidden(x, place)
