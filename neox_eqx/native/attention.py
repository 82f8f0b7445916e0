"""Attention by the library, for use inside jit on a CPU alone, where `library.is_available()`.

Queries go through the slots of all segments with an online softmax, in blocks that stay in a core's
cache. What none of a block sees is not computed. All is float32, whatever keys and values are kept
in. A row has the same bits alone and in any batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from neox_eqx.native.library import ATTENTION

Slots = tuple[Array, ...]
"""Keys and values (b, H, S, K) of a segment, and of int8 a scale (b, H, S, 1) of each."""


def attend(
    query: Float[Array, "B H T K"],
    ids: Int32[Array, "B T"],
    past: Sequence[tuple[Slots, Bool[Array, "B _"]]],
    new: Slots,
) -> Float32[Array, "B H T K"]:
    """softmax(q kᵀ / sqrt(K)) v over the slots of the past that each row sees, and the new tokens
    up to a query's own that have its id, which is not 0. What sees nothing is 0.

    Where there are b < B rows of keys, each serves B / b neighbours.
    """
    arrays = [array for slots, seen in past for array in (*slots, seen)]
    result = jax.ShapeDtypeStruct(query.shape, jnp.float32)
    call = jax.ffi.ffi_call(ATTENTION, result, vmap_method="sequential")
    return call(query.astype(jnp.float32), ids, *arrays, *new)
