"""How attention is computed: one way is one class, and here is chosen which."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from neox_eqx.model.dropout import Dropout
from neox_eqx.model.kernels.blocks import Blocks
from neox_eqx.model.kernels.cudnn import CuDNN
from neox_eqx.model.kernels.flash import Flash
from neox_eqx.model.kernels.fused import Fused
from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.visible import Visible
from neox_eqx.sharding.rules import platform_of


class Dense(eqx.Module):
    """With all scores at once: for few tokens, and where weights are dropped out."""

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


Attending = Dense | Flash | CuDNN | Fused | Blocks
"""All have `attend(query, segments)`: the new tokens' keys and values are the last segment."""


def attending(
    visible: Visible, mesh: Mesh | None, *, head_size: int, dtype: jnp.dtype, drops: bool
) -> Attending:
    """The way for these tokens: a kernel of the platform if it fits. `drops`: weights are dropped
    out, which Dense alone does."""
    length = visible.ids.shape[1]
    platform = platform_of(mesh)
    if drops:
        return Dense(visible.mask())
    if not visible.past and Flash.fits(length, platform):
        return Flash(visible.ids, mesh)
    if Fused.fits(length, platform):
        return Fused(visible, mesh)
    if Blocks.fits(length, platform):
        if CuDNN.fits(visible, platform, head_size=head_size, dtype=dtype):
            return CuDNN.of(visible)
        return Blocks(visible)
    return Dense(visible.mask())
