"""Long texts, read a chunk of their tokens at a time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import platform_of

CHUNK = 2048
"""The most tokens of a row that are read at once on a CPU."""


def read_long(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    past: Sequence[Segment] = (),
) -> tuple[Float[Array, "B T D"], Segment]:
    """As `model(tokens, valid, past)`, with no more of a layer in memory than a chunk's.

    An accelerator's kernels take a whole text, and no past. Of rope_type dynamic all keys depend
    on the length of the whole.
    """
    rows, length = tokens.shape
    is_dynamic = model.config.rope_parameters.rope_type == "dynamic"
    if length <= CHUNK or is_dynamic or platform_of(model.mesh) != "cpu":
        return model(tokens, valid, past)
    count = -(-length // CHUNK)
    chunk = -(-length // count)

    def read(
        earlier: Segment, own: tuple[Int[Array, "B t"], Bool[Array, "B t"], Int[Array, ""]]
    ) -> tuple[Segment, Float[Array, "B t D"]]:
        tokens, valid, start = own
        hidden, new = model(tokens, valid, (*past, earlier))
        # Adds 0, so that XLA reads all that is earlier before it writes, in place.
        start = start + jnp.minimum(jnp.isinf(hidden).sum(), 0)
        return earlier.write(new, start).constrain(model.mesh), hidden

    def chunks(x: Shaped[Array, "B T"]) -> Shaped[Array, "n B t"]:
        padded = jnp.pad(x, ((0, 0), (0, count * chunk - length)))
        return padded.reshape(rows, count, chunk).swapaxes(0, 1)

    nothing = model.empty_segment(rows, count * chunk).constrain(model.mesh)
    starts = chunk * jnp.arange(count)
    segment, hidden = lax.scan(read, nothing, (chunks(tokens), chunks(valid), starts))
    whole = hidden.swapaxes(0, 1).reshape(rows, count * chunk, -1)
    kv = jax.tree.map(lambda x: x[..., :length, :], segment.kv)
    return whole[:, :length], Segment(kv, segment.valid[:, :length])
