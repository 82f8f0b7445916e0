"""Long texts, read a chunk of their tokens at a time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.model.visible import end
from neox_eqx.sharding.rules import platform_of

CHUNK = 512
"""The most tokens of a row that are read at once on a CPU. Layers take longer for 2,048 at once,
whose activations its caches do not hold."""


def read_long(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    past: Sequence[Segment] = (),
) -> tuple[Float[Array, "B T D"], Segment]:
    """As `model(tokens, valid, past)`, with no more of a layer in memory than a chunk's.

    Chunks after the last token of all rows are not read. An accelerator's kernels take a whole
    text, and no past. Of rope_type dynamic all keys depend on the length of the whole.
    """
    rows, length = tokens.shape
    is_dynamic = model.config.rope_parameters.rope_type == "dynamic"
    if length <= CHUNK or is_dynamic or platform_of(model.mesh) != "cpu":
        return model(tokens, valid, past)
    count = -(-length // CHUNK)
    size = -(-length // count)
    missing = ((0, 0), (0, count * size - length))
    tokens, valid = jnp.pad(tokens, missing), jnp.pad(valid, missing)

    def read(
        index: Int[Array, ""], so_far: tuple[Segment, Float[Array, "B U D"]]
    ) -> tuple[Segment, Float[Array, "B U D"]]:
        segment, hidden = so_far
        own, is_real = (
            lax.dynamic_slice_in_dim(x, index * size, size, axis=1) for x in (tokens, valid)
        )
        read, new = model(own, is_real, (*past, segment))
        # Adds 0, so that XLA reads all that is earlier before it writes, in place.
        start = index * size + jnp.minimum(jnp.isinf(read).sum(), 0)
        written = segment.write(new, start).constrain(model.mesh)
        return written, lax.dynamic_update_slice_in_dim(hidden, read, start, axis=1)

    nothing = model.empty_segment(rows, count * size).constrain(model.mesh)
    no_hidden = jnp.zeros((rows, count * size, model.config.hidden_size), model.dtype)
    stop = -(-end(valid) // size)
    segment, hidden = lax.fori_loop(0, stop, read, (nothing, no_hidden))
    kv = jax.tree.map(lambda x: x[..., :length, :], segment.kv)
    return hidden[:, :length], Segment(kv, segment.valid[:, :length])
