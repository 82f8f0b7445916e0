"""What scores come of, in a few letters: by them a run that goes on knows rows as its own."""

import hashlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.scoring.encode import Text
from neox_eqx.scoring.pairs import Pair
from neox_eqx.sharding.rules import constrain

_MIX = 0x9E3779B1
"""An odd number whose bits have no pattern: 2**32 divided by the golden ratio."""


def subject(
    model: GPTNeoX,
    texts: Sequence[Text | InputError],
    pairs: Sequence[Pair | InputError],
    top_candidates: int,
) -> dict[str, str]:
    """All that the rows of these texts come of; `pairs` are the tokens that a tokenizer made.

    An error stands where there is no text, or no tokens that can be scored.

    The model is its config and every bit of its parameters, wherever they came from and lie.
    """
    return {
        "model": _digest([repr(model.config), *map(str, np.asarray(_checksums(model)))]),
        "dtype": str(model.dtype),
        "input": _digest(map(repr, zip(texts, pairs, strict=True))),
        "number of candidates": str(top_candidates),
    }


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()


@jax.jit
def _checksums(model: GPTNeoX) -> UInt32[Array, " N"]:
    """One of each parameter, by sums of whole numbers, which no order of adding alters."""

    def checksum(x: Array) -> UInt32[Array, ""]:
        unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        bits = lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
        while bits.ndim:
            # Neither the order within an axis nor that of the axes may change without a trace.
            weight = 2 * lax.iota(jnp.uint32, bits.shape[-1]) + 1
            bits = ((bits ^ bits >> 15) * jnp.uint32(_MIX) * weight).sum(-1, dtype=jnp.uint32)
        return bits

    return constrain(jnp.stack([checksum(x) for x in jax.tree.leaves(model)]), model.mesh)
