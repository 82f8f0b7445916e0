"""The compiled parts of reading and writing a chunk; between them is the loop."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.decoding.scores import NOT_ASKED, Scores, scores_of, token_scores
from neox_eqx.generation.decoding.state import State
from neox_eqx.generation.decoding.strategy import Strategy
from neox_eqx.generation.history import align_right
from neox_eqx.generation.stopping.ending import ERROR
from neox_eqx.model.long import read_long
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import constrain


@partial(jax.jit, static_argnames="candidates")
def read(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    is_real: Bool[Array, "B T"],
    is_scored: Bool[Array, "B T"],
    past: tuple[Segment, ...],
    first_logits: Float[Array, "b V"],
    *,
    candidates: int,
) -> tuple[Scores, Float[Array, "B V"], Bool[Array, " B"], Segment]:
    """Reads a chunk: scores, the next logits, which rows failed, and the segment.

    `first_logits` are those after the text before the chunk: they score each row's first token.
    Each of their rows is for B / b neighbouring rows.
    """
    hidden, segment = read_long(model, tokens, is_real, past)
    lengths = is_real.sum(-1)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    next_logits = model.logits(jnp.take_along_axis(hidden, last, axis=1)[:, 0])
    scores = _scores_after(model, hidden, jnp.where(is_scored, tokens, NOT_ASKED), candidates)
    is_nan = jnp.isnan(scores.logprob).any(-1)
    first_logits = jnp.repeat(first_logits, len(tokens) // len(first_logits), axis=0)
    first = scores_of(first_logits, tokens[:, 0], candidates)
    scores = jax.tree.map(
        lambda all, one: jnp.roll(all, 1, axis=1).at[:, 0].set(one), scores, first
    )
    # A row without tokens here: what follows it follows the text before.
    next_logits = jnp.where(lengths[:, None] > 0, next_logits, first_logits)
    failed = is_nan | ~(next_logits < jnp.inf).all(-1)
    told = jax.tree.map(lambda x: constrain(x, model.mesh), (scores, next_logits, failed))
    return *told, segment


def _scores_after(
    model: GPTNeoX, hidden: Float[Array, "B T D"], tokens: Int[Array, "B T"], candidates: int
) -> Scores:
    """Scores of the next token at each place; those at a row's last place are 0."""
    rows, width = tokens.shape
    targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=NOT_ASKED)
    flat = hidden.reshape(rows * width, -1)
    scores = token_scores(model, flat, targets.reshape(-1), candidates=candidates)
    return jax.tree.map(lambda x: x.reshape(rows, width, *x.shape[1:]), scores)


@jax.jit
def begin(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    is_real: Bool[Array, "B T"],
    next_logits: Float[Array, "B V"],
    strategy: Strategy,
    past: tuple[Segment, ...],
) -> State:
    """Chooses the first tokens after texts whose keys and values are the `past`."""
    state = State.begin(strategy, align_right(tokens, is_real), next_logits, like=past[-1])
    return state.constrain(model.mesh)


@partial(jax.jit, static_argnames="slots")
def end(
    model: GPTNeoX, past: tuple[Segment, ...], state: State, *, slots: int
) -> tuple[Float[Array, "R V"], Segment]:
    """The logits after each row's last token, and the segment of each row up to there.

    The loop leaves the newest token's keys and values out, and goes on in rows that are done. Of
    a row that failed the logits are NaN.
    """
    last = (state.rows.lengths - 1)[:, None]
    slot = jnp.arange(state.rows.slots)
    earlier = state.generated.only(slot < last)
    token = jnp.take_along_axis(state.rows.tokens, last, axis=1)
    hidden, newest = model(token, jnp.ones(token.shape, bool), (*past, earlier))

    def with_last(old: Array, new: Array) -> Array:
        return jnp.where((slot == last)[:, None, :, None], new, old)[..., :slots, :]

    kv = jax.tree.map(with_last, earlier.kv, newest.kv)
    segment = Segment(kv, (slot <= last)[:, :slots]).constrain(model.mesh)
    has_failed = state.rows.finish[:, None] == ERROR
    logits = jnp.where(has_failed, jnp.nan, model.logits(hidden[:, 0]))
    return constrain(logits, model.mesh), segment
