"""What forbids tokens: their logits become -inf, for greedy rows as for sampled ones."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.history import NOTHING, History, forbid
from neox_eqx.generation.words import Words


class AllowedTokens(eqx.Module):
    """Forbids the ids of a padded vocabulary that the tokenizer has no token for."""

    allowed: Bool[Array, " V"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        return jnp.where(self.allowed, logits, -jnp.inf)


class NoRepeatNGram(eqx.Module):
    """No `size` tokens stand in the text twice, the prompt included; 0 is off."""

    size: Int[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        text = history.all()
        length = text.shape[1]
        end = history.prompt.shape[1] + history.lengths
        # A size above the length needs to be told from no other: neither is ever reached.
        longest = jnp.minimum(self.size.max(), length + 1)
        shifted = jnp.pad(text, ((0, 0), (length, 0)), constant_values=NOTHING)

        def compare(back: Int[Array, ""], repeats: Bool[Array, "R U"]) -> Bool[Array, "R U"]:
            """Drops places whose token `back` before differs from the text's, if back < size."""
            before = lax.dynamic_slice_in_dim(shifted, length - back, length, axis=1)
            wanted = jnp.take_along_axis(shifted, (length + end - back)[:, None], axis=1)
            same = (before == wanted) & (wanted != NOTHING)
            return repeats & (same | (back >= self.size)[:, None])

        repeats = jnp.broadcast_to((self.size > 0)[:, None], text.shape)
        repeats = lax.fori_loop(1, longest, compare, repeats)
        return forbid(logits, jnp.where(repeats, text, NOTHING))


class BadWords(eqx.Module):
    """Forbids the token that would complete one of the row's words."""

    words: Words

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        return forbid(logits, jnp.where(self.words.are_begun(history), self.words.last, NOTHING))


class MinLength(eqx.Module):
    """Forbids the EOS ids until the text, prompt included, and its new part are long enough."""

    min_length: Int[Array, " R"]
    min_new_tokens: Int[Array, " R"]
    eos: Int[Array, " E"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        short = (history.length < self.min_length) | (history.lengths < self.min_new_tokens)
        return forbid(logits, jnp.where(short[:, None], self.eos, NOTHING))


class SuppressTokens(eqx.Module):
    """Forbids the row's `ids`, NOTHING among them where another row has more."""

    ids: Int[Array, "R K"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        return forbid(logits, self.ids)


class SuppressTokensAtBegin(eqx.Module):
    """Forbids the row's `ids` as its first generated token."""

    ids: Int[Array, "R K"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        return forbid(logits, jnp.where(history.lengths[:, None] == 0, self.ids, NOTHING))
