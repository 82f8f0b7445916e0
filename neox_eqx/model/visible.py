"""What new tokens attend to, told without a number for each pair of tokens."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Shaped


class Visible(eqx.Module):
    """Each new token attends to all slots of the past that its row sees, and to the new tokens up
    to itself that have its id.

    An id is the number of a document in its row, from 1; 0 is padding, to which nothing attends.
    """

    ids: Int[Array, "B T"]
    past: tuple[Bool[Array, "B _"], ...] = ()
    """Of each past segment."""
    packed: bool = eqx.field(static=True, default=False)
    """Whether a row may have more than one document."""

    def mask(self) -> Bool[Array, "B T U"]:
        """For all pairs, of the past segments and the new tokens one after the other."""
        rows, length = self.ids.shape
        tokens = jnp.arange(length)
        own = _own(self.ids, tokens, self.ids, tokens)
        past = (
            jnp.broadcast_to(seen[:, None], (rows, length, seen.shape[1])) for seen in self.past
        )
        return jnp.concatenate([*past, own], axis=-1)

    def pad(self, block: int) -> "Visible":
        """With tokens and slots up to a multiple of `block`, to which nothing attends."""

        def whole(x: Shaped[Array, "B S"]) -> Shaped[Array, "B s"]:
            return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block)))

        return dataclasses.replace(self, ids=whole(self.ids), past=tuple(map(whole, self.past)))

    def of_block(
        self, which: int, tokens: Int[Array, ""], slots: Int[Array, ""], block: int
    ) -> Bool[Array, "B #t s"]:
        """The mask of the block of new tokens `tokens` and the block of slots `slots`, of `block`
        each, in segment `which`; the new tokens' own is the one after the past."""

        def take(x: Shaped[Array, "B S"], at: Int[Array, ""]) -> Shaped[Array, "B s"]:
            return lax.dynamic_slice_in_dim(x, at * block, block, axis=1)

        if which < len(self.past):
            return take(self.past[which], slots)[:, None]
        within = jnp.arange(block)
        places = tokens * block + within, slots * block + within
        return _own(take(self.ids, tokens), places[0], take(self.ids, slots), places[1])

    def end(self, which: int) -> Int[Array, ""]:
        """The number of slots of a past segment up to the last that any row sees."""
        return end(self.past[which])


def end(seen: Bool[Array, "B S"]) -> Int[Array, ""]:
    """The number of slots up to the last that is seen in any row."""
    return jnp.where(seen.any(0), jnp.arange(1, seen.shape[1] + 1), 0).max(initial=0)


def _own(
    ids: Int[Array, "B t"],
    tokens: Int[Array, " t"],
    other_ids: Int[Array, "B s"],
    other_tokens: Int[Array, " s"],
) -> Bool[Array, "B t s"]:
    """Whether new tokens, with ids and places, attend to other new tokens."""
    same = (ids[:, :, None] == other_ids[:, None]) & (other_ids > 0)[:, None]
    return same & (other_tokens <= tokens[:, None])
