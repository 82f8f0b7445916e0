"""Attention with all scores at once, in plain JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neox_eqx.model.dropout import Dropout
from neox_eqx.model.keys_values import KeysValues


class Dense(eqx.Module):
    """For few tokens, and where attention's weights are dropped out."""

    mask: Bool[Array, "B T U"]
    """True where a new token attends to a slot, of the past segments or of the new tokens."""

    def attend(
        self,
        query: Float[Array, "B H T K"],
        segments: tuple[KeysValues, ...],
        dropout: Dropout | None = None,
    ) -> Float[Array, "B H T K"]:
        """softmax(q kᵀ / sqrt(K)) v over the slots of all segments, in the dtype of `query`.

        One softmax over the concatenated scores, so that no segment's keys need to be copied.
        """
        of_segments = [kv.scores(query) for kv in segments]
        scores = jnp.concatenate(of_segments, axis=-1)
        scores = scores * jnp.asarray(query.shape[-1] ** -0.5, scores.dtype)
        # A finite minimum: a row of padding has nothing to attend to, and must not turn into NaN.
        scores = jnp.where(self.mask[:, None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(query.dtype)
        if dropout is not None:
            weights = dropout.drop_attention(weights)
        output, start = jnp.zeros((), jnp.float32), 0
        for kv, own in zip(segments, of_segments, strict=True):
            stop = start + own.shape[-1]
            output = output + kv.mix(weights[..., start:stop], query.shape[-1])
            start = stop
        return output.astype(query.dtype)
