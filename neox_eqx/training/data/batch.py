"""The tokens of one step, and what of them is learnt."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Batch(eqx.Module):
    """Rows of one document or of several packed ones, with padding anywhere."""

    tokens: Int[Array, "B T"]
    documents: Int[Array, "B T"]
    """Which document of its row a token belongs to: 1, 2, ... from the left, and 0 at padding."""
    weights: Float[Array, "B T"]
    """What predicting this token counts in the loss: 0 in a prompt. The first token of a document
    is never predicted, whatever its weight."""

    def positions(self) -> Int[Array, "B T"]:
        """The number of tokens before this one in its document."""
        real = self.documents > 0
        count = jnp.cumsum(real, axis=-1) - 1
        first = real & (self.documents > _before(lax.cummax(self.documents, axis=1)))
        return count - lax.cummax(jnp.where(first, count, 0), axis=1)

    def targets(self) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
        """The token that follows each token, and the weight of predicting it there."""
        same = (_after(self.documents) == self.documents) & (self.documents > 0)
        return _after(self.tokens), jnp.where(same, _after(self.weights), 0)


def _before(x: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]


def _after(x: Int[Array, "B T"] | Float[Array, "B T"]) -> Int[Array, "B T"] | Float[Array, "B T"]:
    return jnp.pad(x, ((0, 0), (0, 1)))[:, 1:]
