"""The one decoding loop: prefill, then a token for every row until all rows are done."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from neox_eqx.generation.arrays import array
from neox_eqx.generation.decoding.rows import pad_rows
from neox_eqx.generation.decoding.state import State
from neox_eqx.generation.decoding.strategy import Strategy
from neox_eqx.generation.history import align_right
from neox_eqx.model.long import read_long
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment


@jax.jit
def read_prompts(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    strategy: Strategy,
    past: tuple[Segment, ...] = (),
) -> tuple[Segment, State]:
    """Reads the prompts, padded on the right, and chooses the first token of each row.

    Each row of a segment of the `past` stands before equally many neighbouring prompts: all of
    them, where it has one row. Logits are computed for the last position of a prompt only.
    """
    hidden, prompt = read_long(model, tokens, valid, past)
    last = valid.sum(-1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    state = State.begin(strategy, align_right(tokens, valid), model.logits(hidden), like=prompt)
    return prompt, state.constrain(model.mesh)


@partial(jax.jit, donate_argnames="state")
def decode(
    model: GPTNeoX,
    past: tuple[Segment, ...],
    state: State,
    strategy: Strategy,
    until: Int[Array, ""],
) -> State:
    """Goes on until every row is done, or the clock shows `until`, less than the rows' slots.

    The state's buffers are updated in place.
    """

    def step(state: State) -> State:
        newest = state.history.newest[:, None]
        hidden, new = model(newest, jnp.ones(newest.shape, bool), (*past, state.generated))
        return state.add(model.logits(hidden[:, 0]), strategy, new.beside(state.generated))

    state = lax.while_loop(lambda state: (state.clock < until) & state.going_on(), step, state)
    return state.constrain(model.mesh)


@jax.jit
def double_slots(state: State) -> State:
    """Makes room for as many tokens again."""
    rows, memory = pad_rows((state.rows, state.memory), state.rows.slots)
    generated = state.generated.pad(state.generated.slots)
    return State(generated, state.prompt_tokens, rows, state.clock, memory)


def advance(
    model: GPTNeoX,
    past: tuple[Segment, ...],
    state: State,
    strategy: Strategy,
    stride: int | None = None,
) -> State:
    """The state after up to `stride` tokens more, or after as many as the slots allow.

    The slots double when they are full, so a long limit costs nothing while the text is short:
    every step reads all of them. The arrays of `state` must not be used any more.
    """
    # A row may have one token more than keys and values: the newest.
    clock, last = int(state.clock), state.rows.slots - 1
    if clock == last:
        grown = double_slots(state)
        for full in jax.tree.leaves(state.generated.kv):
            full.delete()  # whoever holds the state would keep them beside the larger ones
        state, last = grown, grown.rows.slots - 1
    until = last if stride is None else min(clock + stride, last)
    return decode(model, past, state, strategy, array(until, np.int32))


def decode_all(
    model: GPTNeoX,
    past: tuple[Segment, ...],
    state: State,
    strategy: Strategy,
    *,
    stride: int | None = None,
) -> Iterator[State]:
    """Yields the state, and then that after each `advance`, until all rows are done."""
    yield state
    while state.is_going_on():
        state = advance(model, past, state, strategy, stride)
        yield state
