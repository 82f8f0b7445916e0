"""The rows of a batch while they grow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Rows(eqx.Module):
    """Generated tokens and how likely the model itself found them, row by row."""

    tokens: Int[Array, "R N"]
    """Without a gap, from each row's own beginning; what stands after its length means nothing."""
    logprobs: Float[Array, "R N"]
    """Of each token under the model itself, in float32; 0 after a row's end."""
    lengths: Int[Array, " R"]
    """Tokens so far in each row, its EOS included."""
    finish: Int[Array, " R"]
    """Why the row has ended, an index into `stopping.ending.REASONS`; 0 while it goes on."""

    @classmethod
    def empty(cls, rows: int, slots: int) -> "Rows":
        return cls(
            jnp.zeros((rows, slots), jnp.int32),
            jnp.zeros((rows, slots), jnp.float32),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros(rows, jnp.int32),
        )

    @property
    def slots(self) -> int:
        return self.tokens.shape[1]

    @property
    def done(self) -> Bool[Array, " R"]:
        return self.finish > 0

    def add(self, token: Int[Array, " R"], logprob: Float[Array, " R"]) -> "Rows":
        """Each row with one more token; a row that is done stays as it is.

        Every slot is written, most of them with what they hold: rows are of different lengths,
        and all their tokens are little beside the keys and values of one.
        """
        is_new = (jnp.arange(self.slots) == self.lengths[:, None]) & ~self.done[:, None]
        return Rows(
            jnp.where(is_new, token[:, None], self.tokens),
            jnp.where(is_new, logprob[:, None], self.logprobs),
            jnp.where(self.done, self.lengths, self.lengths + 1),
            self.finish,
        )

    def end(self, finish: Int[Array, " R"]) -> "Rows":
        """Ends the rows that go on and have a reason, not 0, in `finish`."""
        finish = jnp.where(self.done, self.finish, finish)
        return Rows(self.tokens, self.logprobs, self.lengths, finish)

    def take(self, parents: Int[Array, "B K"]) -> "Rows":
        """K rows for each prompt: copies of `parents`, indices among that prompt's own rows."""
        return jax.tree.map(lambda x: take_rows(x, parents), self)

    def pad(self, slots: int) -> "Rows":
        """Room for so many tokens more."""
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, slots))) if x.ndim == 2 else x, self)


def pad_rows(tree: Any, slots: int) -> Any:
    """The tree with room for so many tokens more in all of its Rows."""

    def is_rows(node: Any) -> bool:
        return isinstance(node, Rows)

    return jax.tree.map(lambda x: x.pad(slots) if is_rows(x) else x, tree, is_leaf=is_rows)


def take_rows(x: Array, parents: Int[Array, "B K"]) -> Array:
    """The parents' rows of `x`. On a mesh none leaves the device of its prompt."""
    apart = x.reshape(len(parents), -1, *x.shape[1:])
    taken = jax.vmap(lambda own, index: own[index])(apart, parents)
    return taken.reshape(-1, *x.shape[1:])
