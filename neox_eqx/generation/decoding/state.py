"""What decoding carries from token to token."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.decoding.rows import Rows, take_rows
from neox_eqx.generation.decoding.strategy import Strategy
from neox_eqx.generation.history import History
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import constrain

FIRST_SLOTS = 64
"""For the generated tokens of each row, until `double_slots`."""


class State(eqx.Module):
    """What decoding carries from token to token."""

    generated: Segment
    """Keys and values of the tokens so far, all but the newest."""
    prompt_tokens: Int[Array, "B T"]
    """The prompts' ids, aligned to the right: the rows' tokens go on where they end."""
    rows: Rows
    clock: Int[Array, ""]
    """How many tokens' keys and values are written for each row, and so where the next go: in slot
    `clock`, the same in all rows, or in the K slots from `clock` * K where K beams share a row of
    them. `generated.valid` tells which earlier slots are a row's own: a row may join later."""
    memory: Any
    """The strategy's own."""

    @classmethod
    def begin(
        cls,
        strategy: Strategy,
        prompt_tokens: Int[Array, "B T"],
        logits: Float[Array, "B V"],
        like: Segment,
    ) -> "State":
        """The first token of every row, by the `logits` after each prompt.

        Keys and values will be kept in the class and the dtypes of `like`.
        """
        prompts, rows = len(logits), strategy.num_rows
        cache_rows = strategy.cache_rows(prompts)
        slots = FIRST_SLOTS * (rows // cache_rows)
        state = cls(
            generated=like.emptied(cache_rows, slots, readers=rows),
            prompt_tokens=prompt_tokens,
            rows=Rows.empty(rows, FIRST_SLOTS),
            clock=jnp.int32(0),
            memory=strategy.begin(prompts, FIRST_SLOTS),
        )
        return state.add(jnp.repeat(logits, rows // prompts, axis=0), strategy)

    def add(
        self, logits: Float[Array, "R V"], strategy: Strategy, newest: Segment | None = None
    ) -> "State":
        """Chooses one token a row; `newest` are keys and values of the tokens chosen before.

        Keys and values stay in place; a row takes over from its parent which of them it sees.
        """
        with jax.named_scope("choose"):
            rows, parents, memory = strategy.choose(logits, self.history, self.rows, self.memory)
        generated, clock = self.generated, self.clock
        if newest is not None:
            # Adds 0, as no id is negative, so that the slot depends on the chosen tokens: once
            # nothing reads the old buffer any more, XLA writes in place and copies nothing.
            with jax.named_scope("write"):
                slot = clock * newest.slots + jnp.minimum(rows.tokens.min(), 0)
                generated, clock = generated.write(newest, slot), clock + 1
        if parents is not None:
            generated = Segment(generated.kv, take_rows(generated.valid, parents))
        return State(generated, self.prompt_tokens, rows, clock, memory)

    @property
    def history(self) -> History:
        """The text of each row so far."""
        return History(self.prompt_tokens, self.rows.tokens, self.rows.lengths)

    def constrain(self, mesh: Mesh | None) -> "State":
        """The keys and values where `mesh` has them, and all else on every device."""

        def place(x: Segment | jax.Array) -> Segment | jax.Array:
            return x.constrain(mesh) if isinstance(x, Segment) else constrain(x, mesh)

        return jax.tree.map(place, self, is_leaf=lambda x: isinstance(x, Segment))

    def going_on(self) -> Bool[Array, ""]:
        """Some row is not done."""
        return ~self.rows.done.all()

    def is_going_on(self) -> bool:
        """As `going_on`, once the state is there, and without a program for it."""
        return not (jax.device_get(self.rows.finish) > 0).all()
