"""The text of each row so far, as the processors and the rules for stopping read it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NOTHING = 2**31 - 1
"""Stands where there is no token. Beyond every vocabulary: no id equals it, scatters drop it."""


class History(eqx.Module):
    """Prompt and generated tokens of each row: `all` has them as one run without a gap.

    It is worked out anew from the tokens at every step, and whatever is counted in it too. That
    costs less than 1 % of a step, and rows that change places move a few numbers, not a count
    for every word of the vocabulary.
    """

    prompt: Int[Array, "B T"]
    """Aligned to the right, NOTHING before; each prompt is that of R / B neighbouring rows."""
    generated: Int[Array, "R N"]
    """What stands after a row's length means nothing."""
    lengths: Int[Array, " R"]
    """Generated tokens of each row."""

    @property
    def start(self) -> Int[Array, " R"]:
        """Tokens of each row's prompt."""
        return jnp.repeat((self.prompt != NOTHING).sum(-1), self._rows_a_prompt, axis=0)

    @property
    def _rows_a_prompt(self) -> int:
        return len(self.generated) // len(self.prompt)

    @property
    def length(self) -> Int[Array, " R"]:
        """Tokens of each row, those of its prompt included."""
        return self.start + self.lengths

    @property
    def newest(self) -> Int[Array, " R"]:
        """The token that was generated last; of a row that has none, any."""
        last = jnp.maximum(self.lengths - 1, 0)
        return jnp.take_along_axis(self.generated, last[:, None], axis=1)[:, 0]

    def new(self) -> Int[Array, "R N"]:
        """The generated tokens, and NOTHING after them."""
        slot = jnp.arange(self.generated.shape[1], dtype=jnp.int32)
        return jnp.where(slot < self.lengths[:, None], self.generated, NOTHING)

    def all(self) -> Int[Array, "R U"]:
        """The whole text of each row, NOTHING before and after it."""
        prompt = jnp.repeat(self.prompt, self._rows_a_prompt, axis=0)
        return jnp.concatenate([prompt, self.new()], axis=1)

    def last(self, number: int) -> Int[Array, "R K"]:
        """The last `number` tokens of each row, NOTHING before a shorter text."""
        text = jnp.pad(self.all(), ((0, 0), (number, 0)), constant_values=NOTHING)
        end = self.prompt.shape[1] + self.lengths
        return jnp.take_along_axis(text, end[:, None] + jnp.arange(number), axis=1)


def align_right(tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Moves the padding of prompts from the right to the left, where it is NOTHING."""
    padding = tokens.shape[1] - valid.sum(-1)
    return jax.vmap(jnp.roll)(jnp.where(valid, tokens, NOTHING), padding)


def forbid(logits: Float[Array, "R V"], ids: Int[Array, "R K"]) -> Float[Array, "R V"]:
    """The logits with each row's own `ids` at -inf; NOTHING forbids nothing."""
    return jax.vmap(lambda row, own: row.at[own].set(-jnp.inf, mode="drop"))(logits, ids)
