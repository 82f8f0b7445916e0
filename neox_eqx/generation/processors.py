"""Filters of the next token's logits, each with one value a row.

They follow transformers' logits warpers of the same names, edge cases included. All but the
vocabulary mask apply to sampling only.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32


class Temperature(eqx.Module):
    """Divides the logits."""

    temperature: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        return logits / self.temperature[:, None]


class TopK(eqx.Module):
    """Keeps the k largest logits of a row and all that tie with the last of them; 0 keeps all."""

    k: Int[Array, " R"]
    largest: int = eqx.field(static=True)
    """At least every k: the number of candidates that are selected, without a sort of all."""

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        count = min(self.largest, logits.shape[-1])
        candidates = lax.top_k(logits, count)[0]
        last = jnp.clip(self.k - 1, 0, count - 1)
        threshold = jnp.take_along_axis(candidates, last[:, None], axis=-1)
        drop = (logits < threshold) & (self.k > 0)[:, None]
        return jnp.where(drop, -jnp.inf, logits)


class TopP(eqx.Module):
    """Keeps the most likely tokens until their probability reaches p, the crossing one included.

    A token stays if those above it have less than p together; at least one stays. The boundary
    is found by bisection over the values, which costs a sixth of sorting 50,000 logits.
    """

    p: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        probabilities = jax.nn.softmax(logits, axis=-1)
        goal = jnp.maximum(self.p, jnp.finfo(jnp.float32).tiny)
        keys = _ordered(logits)

        def mass_above(key: UInt32[Array, " R"]) -> Float[Array, " R"]:
            return jnp.where(keys > key[:, None], probabilities, 0).sum(-1)

        def halve(
            _: Int[Array, ""], bounds: tuple[UInt32[Array, " R"], UInt32[Array, " R"]]
        ) -> tuple[UInt32[Array, " R"], UInt32[Array, " R"]]:
            low, high = bounds
            middle = low + (high - low) // 2
            reached = mass_above(middle) < goal
            return jnp.where(reached, low, middle + 1), jnp.where(reached, middle, high)

        _, boundary = lax.fori_loop(0, 32, halve, (keys.min(-1), keys.max(-1)))
        ties = keys == boundary[:, None]
        share = jnp.where(ties, probabilities, 0).max(-1)
        room = jnp.ceil((goal - mass_above(boundary)) / jnp.maximum(share, 1e-38))
        kept = _last_of(ties, jnp.clip(room, 1, logits.shape[-1]).astype(jnp.int32))
        keep = (keys > boundary[:, None]) | kept | (self.p >= 1)[:, None]
        return jnp.where(keep, logits, -jnp.inf)


class MinP(eqx.Module):
    """Drops tokens whose probability is below `min_p` times that of the most likely one."""

    min_p: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        probabilities = jax.nn.softmax(logits, axis=-1)
        least = self.min_p[:, None] * probabilities.max(-1, keepdims=True)
        return jnp.where(probabilities < least, -jnp.inf, logits)


class KnownTokens(eqx.Module):
    """Drops the ids that the tokenizer does not have: padding of the vocabulary, and gaps."""

    known: Bool[Array, " V"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        return jnp.where(self.known, logits, -jnp.inf)


Processor = Temperature | TopK | TopP | MinP | KnownTokens


def _ordered(x: Float[Array, "R V"]) -> UInt32[Array, "R V"]:
    """Unsigned integers in the order of the floats, so that bisection ends on an exact value."""
    # Both zeros as one: they are equal, and their bits are not.
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0, x), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _last_of(ties: Bool[Array, "R V"], count: Int[Array, " R"]) -> Bool[Array, "R V"]:
    """The last `count` True of each row: transformers' ascending sort drops earlier ties first."""

    def cut(ties: Bool[Array, "R V"]) -> Bool[Array, "R V"]:
        from_end = lax.cumsum(ties.astype(jnp.int32), axis=1, reverse=True)
        return ties & (from_end <= count[:, None])

    # Two equal logits at the boundary are rare, and counting them is a pass over the vocabulary.
    return lax.cond((ties.sum(-1) > count).any(), cut, lambda ties: ties, ties)
