"""Causal self-attention over the past segments and the new tokens."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.flash import Flash
from neox_eqx.model.layers import Linear
from neox_eqx.model.lora import LoRALinear
from neox_eqx.model.rotary import Rotary
from neox_eqx.model.segment import KV
from neox_eqx.sharding.rules import Place, anywhere


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
        self,
        x: Float[Array, "B T D"],
        rotary: Rotary,
        past: tuple[KV, ...],
        mask: Bool[Array, "B T U"] | Flash,
        dropout: Dropout | None = None,
        *,
        place: Place = anywhere,
    ) -> tuple[Float[Array, "B T D"], KV]:
        """What attention adds, but for the bias of `dense`; the new tokens' keys and values."""
        rows, length, _ = x.shape
        # The rows of the fused weight are ordered by head, then query, key, value. The barrier
        # keeps XLA's TPU backend from reshaping the weight instead, which copies it.
        fused = place(self.query_key_value(x), "rows", None, "heads")
        fused = lax.optimization_barrier(fused)
        fused = fused.reshape(rows, length, self.num_heads, 3, -1)
        query, key, value = (fused[:, :, :, part].transpose(0, 2, 1, 3) for part in range(3))
        rotary = rotary.astype(x.dtype)
        new = KV(rotary.rotate(key), value)
        attended = attend(rotary.rotate(query), (*past, new), mask, dropout)
        merged = attended.transpose(0, 2, 1, 3).reshape(rows, length, -1)
        return self.dense.product(place(merged, "batch", None, "heads")), new


def attend(
    query: Float[Array, "B H T K"],
    segments: tuple[KV, ...],
    mask: Bool[Array, "B T U"] | Flash,
    dropout: Dropout | None = None,
) -> Float[Array, "B H T K"]:
    """softmax(q kᵀ / sqrt(K)) v over the slots of all segments; U is the sum of their slots.

    One softmax over the concatenated scores, so that no segment's keys need to be copied.
    """
    if isinstance(mask, Flash):
        (new,) = segments
        return mask.attend(query, new)
    scores = jnp.concatenate([_scores(query, kv.key) for kv in segments], axis=-1)
    scores = scores * jnp.asarray(query.shape[-1] ** -0.5, scores.dtype)
    # A finite minimum: a row of padding has nothing to attend to, and must not turn into NaN.
    scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(query.dtype)
    if dropout is not None:
        weights = dropout.drop_attention(weights)
    output, start = jnp.zeros((), jnp.float32), 0
    for kv in segments:
        stop = start + kv.value.shape[-2]
        output = output + _mix(weights[..., start:stop], kv.value, query.shape[-1])
        start = stop
    return output.astype(query.dtype)


def _scores(
    query: Float[Array, "B H T K"], key: Float[Array, "b G S C"]
) -> Float[Array, "B H T S"]:
    """Rows of the batch that share a segment row are one matrix product with it."""
    wide = _widen(query, key.shape[-1])
    shared = _group(wide, len(key))
    # The keys first: the other order makes XLA's CPU backend transpose them in memory.
    dims = (((3,), (3,)), ((0, 1), (0, 1)))
    scores = lax.dot_general(key, shared, dims, precision=lax.Precision.HIGHEST)
    return _ungroup(scores.swapaxes(2, 3), wide.shape).reshape(*query.shape[:3], -1)


def _mix(
    weights: Float[Array, "B H T S"], value: Float[Array, "b G S C"], size: int
) -> Float32[Array, "B H T K"]:
    """In float32, so that the sum over segments is rounded once."""
    batch, heads, length, slots = weights.shape
    wide = weights.reshape(batch, value.shape[1], -1, slots)
    shared = _group(wide, len(value))
    dims = (((3,), (2,)), ((0, 1), (0, 1)))
    mixed = lax.dot_general(
        shared,
        value,
        dims,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return _narrow(_ungroup(mixed, wide.shape), heads, size)


def _widen(query: Float[Array, "B H T K"], width: int) -> Float[Array, "B G hT C"]:
    """Each query at the place of its head among those of its group, with zeros at the others."""
    batch, heads, length, size = query.shape
    together = width // size
    if together == 1:
        return query
    apart = query.reshape(batch, -1, together, length, 1, size)
    own = jnp.eye(together, dtype=query.dtype)[:, None, :, None]
    return (apart * own).reshape(batch, -1, together * length, width)


def _narrow(mixed: Float[Array, "B G hT C"], heads: int, size: int) -> Float[Array, "B H T K"]:
    """Of each row what belongs to its own head."""
    batch, groups, _, width = mixed.shape
    together = width // size
    if together == 1:
        return mixed
    apart = mixed.reshape(batch, groups, together, -1, together, size)
    own = jnp.eye(together, dtype=mixed.dtype)[:, None, :, None]
    return (apart * own).sum(-2).reshape(batch, heads, -1, size)


def _group(x: Float[Array, "B H T X"], rows: int) -> Float[Array, "b H gT X"]:
    """Moves the rows that share a segment row beside their tokens."""
    _, heads, length, size = x.shape
    grouped = x.reshape(rows, -1, heads, length, size).swapaxes(1, 2)
    return grouped.reshape(rows, heads, -1, size)


def _ungroup(x: Float[Array, "b H gT X"], shape: tuple[int, ...]) -> Float[Array, "B H T X"]:
    batch, heads, length, _ = shape
    rows, _, _, size = x.shape
    grouped = x.reshape(rows, heads, -1, length, size).swapaxes(1, 2)
    return grouped.reshape(batch, heads, length, size)
