"""The one decoding loop: prefill, then a token for every row until all rows are done."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.history import History, align_right
from neox_eqx.generation.rows import Rows, take_rows
from neox_eqx.generation.strategy import Strategy
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import constrain

FIRST_SLOTS = 64


class State(eqx.Module):
    """What decoding carries from token to token."""

    generated: Segment
    """Keys and values of the tokens so far, all but the newest."""
    prompt_tokens: Int[Array, "B T"]
    """The prompts' ids, aligned to the right: the rows' tokens go on where they end."""
    rows: Rows
    count: Int[Array, ""]
    """Tokens so far in the rows that are not done."""
    memory: Any
    """The strategy's own."""

    @classmethod
    def begin(
        cls,
        model: GPTNeoX,
        strategy: Strategy,
        prompt_tokens: Int[Array, "B T"],
        logits: Float[Array, "B V"],
    ) -> "State":
        """The first token of every row, by the `logits` after each prompt."""
        prompts, rows = len(logits), strategy.num_rows
        shared = prompts if strategy.moves else rows
        slots = FIRST_SLOTS * (rows // shared)
        state = cls(
            generated=model.empty_segment(shared, slots, readers=rows),
            prompt_tokens=prompt_tokens,
            rows=Rows.empty(rows, FIRST_SLOTS),
            count=jnp.int32(0),
            memory=strategy.begin(prompts, FIRST_SLOTS),
        )
        return state.add(jnp.repeat(logits, rows // prompts, axis=0), strategy)

    def add(
        self, logits: Float[Array, "R V"], strategy: Strategy, newest: Segment | None = None
    ) -> "State":
        """Chooses one token a row; `newest` are keys and values of the tokens chosen before.

        Rows that change places take along what they see of the keys and values, which stay.
        """
        history = History(self.prompt_tokens, self.rows.tokens, self.count)
        rows, parents, memory = strategy.choose(logits, history, self.rows, self.memory)
        generated = self.generated
        if newest is not None:
            # The slot waits for the chosen tokens, which are never below 0: once nothing reads the
            # old buffer any more, XLA writes in place, where it would otherwise copy all of it.
            slot = (self.count - 1) * newest.slots + jnp.minimum(rows.tokens.min(), 0)
            generated = generated.write(newest, slot)
        if parents is not None:
            generated = Segment(generated.kv, take_rows(generated.valid, parents))
        return State(generated, self.prompt_tokens, rows, self.count + 1, memory)

    def constrain(self, mesh: Mesh | None) -> "State":
        """The keys and values where `mesh` has them, and all else on every device."""

        def place(x: Segment | jax.Array) -> Segment | jax.Array:
            return x.constrain(mesh) if isinstance(x, Segment) else constrain(x, mesh)

        return jax.tree.map(place, self, is_leaf=lambda x: isinstance(x, Segment))

    def going_on(self) -> Bool[Array, ""]:
        """Some row is not done."""
        return ~self.rows.done.all()


@jax.jit
def prefill(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    strategy: Strategy,
    past: tuple[Segment, ...] = (),
) -> tuple[Segment, State]:
    """Reads the prompts, padded on the right, and chooses the first token of each row.

    A segment of the `past` stands before all prompts, or before as many next to each other as
    it takes. Logits are computed for the last position of a prompt only.
    """
    hidden, prompt = model(tokens, valid, past)
    last = valid.sum(-1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    state = State.begin(model, strategy, align_right(tokens, valid), model.logits(hidden))
    return prompt, state.constrain(model.mesh)


@partial(jax.jit, donate_argnames="state")
def decode(
    model: GPTNeoX,
    past: tuple[Segment, ...],
    state: State,
    strategy: Strategy,
    until: Int[Array, ""],
) -> State:
    """Goes on until every row is done or has `until` tokens, which the slots must have room for.

    The state's buffers are updated in place.
    """

    def step(state: State) -> State:
        newest = lax.dynamic_slice_in_dim(state.rows.tokens, state.count - 1, 1, axis=1)
        hidden, new = model(newest, jnp.ones(newest.shape, bool), (*past, state.generated))
        return state.add(model.logits(hidden[:, 0]), strategy, new.beside(state.generated))

    state = lax.while_loop(lambda state: (state.count < until) & state.going_on(), step, state)
    return state.constrain(model.mesh)


@jax.jit
def double_slots(state: State) -> State:
    """Makes room for as many tokens again."""
    slots = state.rows.slots

    def more(node: Any) -> Any:
        return node.pad(slots) if isinstance(node, Rows) else node

    def is_rows(node: Any) -> bool:
        return isinstance(node, Rows)

    rows, memory = jax.tree.map(more, (state.rows, state.memory), is_leaf=is_rows)
    generated = state.generated.pad(state.generated.slots)
    return State(generated, state.prompt_tokens, rows, state.count, memory)


def decode_all(
    model: GPTNeoX,
    past: tuple[Segment, ...],
    state: State,
    strategy: Strategy,
    *,
    stride: int | None = None,
) -> Iterator[State]:
    """Yields the state after every `stride` tokens, or as seldom as the slots allow.

    The slots double when they are full, so a long limit costs nothing while the text is short:
    every step reads all of them. The arrays of a yielded state are gone once the next is asked
    for.
    """
    yield state
    while bool(state.going_on()):
        count, slots = int(state.count), state.rows.slots
        if count == slots:
            grown = double_slots(state)
            for array in jax.tree.leaves(state.generated.kv):
                array.delete()  # whoever holds the state would keep them beside the larger ones
            state = grown
            slots *= 2
        until = slots if stride is None else min(count + stride, slots)
        state = decode(model, past, state, strategy, jnp.int32(until))
        yield state
