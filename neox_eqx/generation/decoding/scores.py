"""How likely the model finds given tokens, without ever holding the logits of a whole batch."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from neox_eqx.generation.decoding.sampling import first_of_largest
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.rules import constrain

NOT_ASKED = -1
"""The target of a position that is not to be scored, as any number below 0 is."""

_CHUNK = 128
"""Positions of a device that are scored at a time; measured on two x86 cores."""


class Scores(eqx.Module):
    """What the model says of P positions. Where nothing was asked, all of it is 0."""

    logprob: Float32[Array, " P"]
    """Of the target: float32 log-softmax of the logits."""
    is_greedy: Bool[Array, " P"]
    """Whether the target is the likeliest token."""
    candidates: Int[Array, "P K"]
    """The likeliest tokens, the likeliest first."""
    candidate_logprobs: Float32[Array, "P K"]


@partial(jax.jit, static_argnames="candidates")
def token_scores(
    model: GPTNeoX,
    hidden: Float[Array, "P D"],
    targets: Int[Array, " P"],
    *,
    candidates: int = 0,
) -> Scores:
    """Scores each target by the hidden state before it, and finds as many `candidates` there.

    The positions that are asked for go through the head in chunks, so that the logits of a chunk
    are all that is ever there, and those that are not asked for take no time.
    """
    positions = len(targets)
    chunk = min(_CHUNK * (model.mesh.shape["data"] if model.mesh else 1), positions)
    is_asked = targets >= 0
    # `positions` stands after the last of them, and what is written there is dropped.
    size = positions + -positions % chunk
    (asked,) = jnp.nonzero(is_asked, size=size, fill_value=positions)

    def step(carry: tuple[Int[Array, ""], Scores]) -> tuple[Int[Array, ""], Scores]:
        start, scores = carry
        place = lax.dynamic_slice_in_dim(asked, start, chunk)
        part = _scores(model, hidden[place], targets[place], candidates)
        scores = jax.tree.map(lambda all, new: all.at[place].set(new, mode="drop"), scores, part)
        return start + chunk, scores

    nothing = Scores(
        jnp.zeros(positions, jnp.float32),
        jnp.zeros(positions, bool),
        jnp.zeros((positions, candidates), jnp.int32),
        jnp.zeros((positions, candidates), jnp.float32),
    )
    count = is_asked.sum()
    return lax.while_loop(lambda carry: carry[0] < count, step, (jnp.int32(0), nothing))[1]


def _scores(
    model: GPTNeoX, hidden: Float[Array, "C D"], targets: Int[Array, " C"], candidates: int
) -> Scores:
    hidden = constrain(hidden, model.mesh, "rows", None)
    logits = constrain(model.logits(hidden), model.mesh, "rows", "vocab")
    return scores_of(logits, targets, candidates)


def scores_of(logits: Float[Array, "C V"], targets: Int[Array, " C"], candidates: int) -> Scores:
    """Scores each target by the logits of its place."""
    # Less the largest before all else: of a token that is nearly certain, whose logarithm is
    # near 0, the difference of two large numbers would leave little.
    largest = logits.max(-1, keepdims=True)
    normaliser = jnp.log(jnp.exp(logits - largest).sum(-1, keepdims=True))
    of_target = jnp.take_along_axis(logits, targets[:, None], axis=-1)
    best, tokens = lax.top_k(logits, candidates)
    return Scores(
        (of_target - largest - normaliser)[:, 0],
        first_of_largest(logits) == targets,
        tokens,
        best - largest - normaliser,
    )
