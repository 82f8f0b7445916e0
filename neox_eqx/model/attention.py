"""Causal self-attention over the past segments and the new tokens."""

from typing import Any

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.context import Context
from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.model.linear import Linear
from neox_eqx.model.lora import LoRALinear


class Attention(eqx.Module):
    query_key_value: Linear | LoRALinear
    dense: Linear | LoRALinear
    num_heads: int = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        config: GPTNeoXConfig,
        *,
        dtype: jax.typing.DTypeLike,
        heads: int | None = None,
        key: PRNGKeyArray,
    ) -> "Attention":
        heads = heads or config.num_attention_heads
        size, inner = config.hidden_size, heads * config.head_dim
        options: dict[str, Any] = dict(
            use_bias=config.attention_bias, scale=config.initializer_range, dtype=dtype
        )
        keys = jax.random.split(key)
        return cls(
            Linear.init((3 * inner, size), ("heads", "embed"), key=keys[0], **options),
            Linear.init((size, inner), ("embed", "heads"), key=keys[1], **options),
            heads,
        )

    def __call__(
        self, x: Float[Array, "B T D"], past: tuple[KeysValues, ...], context: Context
    ) -> tuple[Float[Array, "B T D"], KV]:
        """What attention adds to the residual stream; the new tokens' keys and values."""
        y, new = self.before_bias(x, past, context)
        return self.dense.add_bias(y), new

    def before_bias(
        self, x: Float[Array, "B T D"], past: tuple[KeysValues, ...], context: Context
    ) -> tuple[Float[Array, "B T D"], KV]:
        """As a call, without the bias of `dense`: on a mesh devices may still hold partial sums."""
        rows, length, _ = x.shape
        # The rows of the fused weight are ordered by head, then query, key, value. The barrier
        # keeps XLA's TPU backend from reshaping the weight instead, which copies it.
        fused = context.place(self.query_key_value(x), "rows", None, "heads")
        fused = lax.optimization_barrier(fused)
        fused = fused.reshape(rows, length, self.num_heads, 3, -1)
        query, key, value = (fused[:, :, :, part].transpose(0, 2, 1, 3) for part in range(3))
        rotary = context.rotary.astype(x.dtype)
        new = KV(rotary.rotate(key), value)
        attended = context.attend(rotary.rotate(query), (*past, new))
        merged = attended.transpose(0, 2, 1, 3).reshape(rows, length, -1)
        return self.dense.product(context.place(merged, "batch", None, "heads")), new
