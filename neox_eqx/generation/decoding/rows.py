"""The rows of a batch while they grow."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Rows(eqx.Module):
    """Generated tokens and how likely the model itself found them, row by row."""

    tokens: Int[Array, "R N"]
    """What stands after a row's end means nothing."""
    logprobs: Float[Array, "R N"]
    """Of each token under the model itself, in float32; 0 after a row's end."""
    lengths: Int[Array, " R"]
    """Tokens so far in each row, its EOS included."""
    finish: Int[Array, " R"]
    """Why the row has ended, as `stopping.REASONS` counts them; 0 while it goes on."""

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

    def add(
        self, token: Int[Array, " R"], logprob: Float[Array, " R"], slot: Int[Array, ""]
    ) -> "Rows":
        """Each row with one more token; a row that is done is as long as before."""
        logprob = jnp.where(self.done, 0, logprob)
        return Rows(
            lax.dynamic_update_slice_in_dim(self.tokens, token[:, None], slot, 1),
            lax.dynamic_update_slice_in_dim(self.logprobs, logprob[:, None], slot, 1),
            jnp.where(self.done, self.lengths, slot + 1),
            self.finish,
        )

    def end(self, finish: Int[Array, " R"]) -> "Rows":
        """The rows that go on so far end where `finish` has a reason."""
        finish = jnp.where(self.done, self.finish, finish)
        return Rows(self.tokens, self.logprobs, self.lengths, finish)

    def take(self, parents: Int[Array, "B K"]) -> "Rows":
        """K rows for each prompt, which are `parents` among the rows of the same prompt so far."""
        return jax.tree.map(lambda x: take_rows(x, parents), self)

    def pad(self, slots: int) -> "Rows":
        """Room for so many tokens more."""
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, slots))) if x.ndim == 2 else x, self)


def take_rows(x: Array, parents: Int[Array, "B K"]) -> Array:
    """The parents' rows of `x`. On a mesh none leaves the device of its prompt."""
    apart = x.reshape(len(parents), -1, *x.shape[1:])
    taken = jax.vmap(lambda own, index: own[index])(apart, parents)
    return taken.reshape(-1, *x.shape[1:])
