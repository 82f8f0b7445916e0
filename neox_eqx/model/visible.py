"""What new tokens attend to, told without a number for each pair of tokens."""

import equinox as eqx
import jax.numpy as jnp
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
        tokens = jnp.arange(self.ids.shape[1])
        masks = [self.between(which, tokens) for which in range(len(self.past) + 1)]
        return jnp.concatenate(masks, axis=-1)

    def between(
        self, which: int, tokens: Int[Array, " t"], slots: Int[Array, " s"] | None = None
    ) -> Bool[Array, "B t s"]:
        """Whether these new tokens attend to these slots, all by default, of segment `which`: the
        new tokens' own is the one after the past. Slots and tokens after the last are padding."""
        if which < len(self.past):
            seen = _at(self.past[which], slots)
            return jnp.broadcast_to(seen[:, None], (len(seen), len(tokens), seen.shape[1]))
        slots = tokens if slots is None else slots
        own, seen = _at(self.ids, tokens)[:, :, None], _at(self.ids, slots)[:, None]
        return (own == seen) & (seen > 0) & (slots <= tokens[:, None])

    def end(self, which: int) -> Int[Array, ""]:
        """The number of slots of a past segment up to the last that any row sees."""
        seen = self.past[which].any(0)
        return jnp.where(seen, jnp.arange(1, len(seen) + 1), 0).max(initial=0)


def _at(x: Shaped[Array, "B S"], slots: Int[Array, " s"] | None) -> Shaped[Array, "B s"]:
    return x if slots is None else jnp.take(x, slots, axis=1, mode="fill", fill_value=0)
