"""One transformer layer."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.attention import Attention
from neox_eqx.model.context import Context
from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.mlp import MLP
from neox_eqx.model.norm import LayerNorm


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
        self, x: Float[Array, "B T D"], past: tuple[KeysValues, ...], context: Context
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """The residual stream after this layer, and the new tokens' keys and values."""
        if self._shares_reduction(context):
            return self._with_one_reduction(x, past, context)
        drop = context.dropout
        attended, new = self.attention(self.input_layernorm(x), past, context)
        attended = attended if drop is None else drop.drop_hidden(attended, 0)
        read = x if self.use_parallel_residual else x + attended
        added = self.mlp(self.post_attention_layernorm(read), context)
        added = added if drop is None else drop.drop_hidden(added, 1)
        return x + attended + added, new

    def _shares_reduction(self, context: Context) -> bool:
        """Whether both parts have `before_bias`, which one that replaced them need not have."""
        own = type(self.attention) is Attention and type(self.mlp) is MLP
        return own and self.use_parallel_residual and context.dropout is None

    def _with_one_reduction(
        self, x: Float[Array, "B T D"], past: tuple[KeysValues, ...], context: Context
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Sums both parts before their biases: on a mesh each is a sum over the devices, and both
        then take one all-reduce instead of two."""
        attended, new = self.attention.before_bias(self.input_layernorm(x), past, context)
        branches = attended + self.mlp.before_bias(self.post_attention_layernorm(x), context)
        branches = context.place(branches, "batch", None, "embed")
        branches = self.attention.dense.add_bias(branches)
        return x + self.mlp.dense_4h_to_h.add_bias(branches), new
