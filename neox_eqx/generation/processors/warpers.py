"""Filters that look at the next token's logits alone; they apply where a row samples."""

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


class AtLeast(eqx.Module):
    """A filter that leaves the most likely `number` tokens in any case."""

    filter: eqx.Module
    number: int = eqx.field(static=True)

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        largest, ids = lax.top_k(logits, min(self.number, logits.shape[-1]))
        filtered = self.filter(logits)  # type: ignore[operator]
        return jax.vmap(lambda row, ids, own: row.at[ids].set(own))(filtered, ids, largest)


class TopP(eqx.Module):
    """Keeps the most likely tokens until their probability reaches p, the crossing one included.

    A token stays if those above it have less than p together; at least one stays. Holtzman et al.
    2019, arXiv:1904.09751.
    """

    p: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        logits = _settled(logits, self.p)
        probabilities = jax.nn.softmax(logits, axis=-1)
        goal = jnp.maximum(self.p, jnp.finfo(jnp.float32).tiny)
        keys = _ordered(logits)
        boundary = _boundary(keys, probabilities, goal)
        ties = keys == boundary[:, None]
        share = jnp.where(ties, probabilities, 0).max(-1)
        above = _mass_above(boundary, keys, probabilities)
        room = jnp.ceil((goal - above) / jnp.maximum(share, 1e-38))
        kept = _last_of(ties, jnp.clip(room, 1, logits.shape[-1]).astype(jnp.int32))
        keep = (keys > boundary[:, None]) | kept | (self.p >= 1)[:, None]
        return jnp.where(keep, logits, -jnp.inf)


class MinP(eqx.Module):
    """Drops tokens whose probability is below `min_p` times that of the most likely one.

    Nguyen et al. 2024, arXiv:2407.01082.
    """

    min_p: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        probabilities = jax.nn.softmax(logits, axis=-1)
        least = self.min_p[:, None] * probabilities.max(-1, keepdims=True)
        return jnp.where(probabilities < least, -jnp.inf, logits)


class TypicalP(eqx.Module):
    """Keeps the tokens whose surprise is nearest to the mean, until their probability reaches p.

    Of those that are as near as the last of them, all stay. 1 keeps all. Meister et al. 2022,
    arXiv:2202.00666.
    """

    p: Float[Array, " R"]
    at_least: int = eqx.field(static=True, default=1)
    """So many of the nearest stay in any case."""

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        logits = _settled(logits, self.p)
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        distance = jnp.abs(-logprobs - _entropy(logprobs)[:, None])
        nearness = ~_ordered(distance)
        boundary = _boundary(nearness, jax.nn.softmax(logits, axis=-1), self.p)
        nearest = lax.top_k(nearness, min(self.at_least, logits.shape[-1]))[0]
        boundary = jnp.minimum(boundary, nearest[:, -1])
        keep = (nearness >= boundary[:, None]) | (self.p >= 1)[:, None]
        return jnp.where(keep, logits, -jnp.inf)


class EpsilonCutoff(eqx.Module):
    """Drops tokens less likely than epsilon, but not the most likely one; 0 and 1 keep all."""

    epsilon: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        return _cut_below(logits, jnp.where(self.epsilon < 1, self.epsilon, 0))


class EtaCutoff(eqx.Module):
    """EpsilonCutoff with a smaller epsilon where the distribution is flat; 0 and 1 keep all.

    min(epsilon, sqrt(epsilon) exp(-entropy)): Hewitt et al. 2022, arXiv:2210.15191.
    """

    epsilon: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        entropy = _entropy(jax.nn.log_softmax(logits, axis=-1))
        epsilon = jnp.where(self.epsilon < 1, self.epsilon, 0)
        return _cut_below(logits, jnp.minimum(epsilon, jnp.sqrt(epsilon) * jnp.exp(-entropy)))


def _cut_below(logits: Float[Array, "R V"], least: Float[Array, " R"]) -> Float[Array, "R V"]:
    unlikely = jax.nn.softmax(logits, axis=-1) < least[:, None]
    return jnp.where(unlikely & (logits < logits.max(-1, keepdims=True)), -jnp.inf, logits)


def _entropy(logprobs: Float[Array, "R V"]) -> Float[Array, " R"]:
    # A token that is forbidden adds nothing, where -inf times 0 would be NaN.
    return -jnp.where(logprobs > -jnp.inf, logprobs * jnp.exp(logprobs), 0).sum(-1)


def _settled(logits: Float[Array, "R V"], p: Float[Array, " R"]) -> Float[Array, "R V"]:
    """The logits, worked out once for all that reads them.

    XLA works them out anew for each use where that is cheap, and rounds them differently: with a
    division and a subtraction in one step here and in two there. The boundary that is found would
    then be the key of no token. A branch that is never taken, which it cannot know, prevents that.
    """
    return lax.cond((p >= 0).all(), lambda x: x, jnp.zeros_like, logits)


def _ordered(x: Float[Array, "R V"]) -> UInt32[Array, "R V"]:
    """Unsigned integers in the order of the floats, so that bisection ends on an exact value."""
    # Both zeros as one: they are equal, and their bits are not.
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0, x), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _boundary(
    keys: UInt32[Array, "R V"], weights: Float[Array, "R V"], goal: Float[Array, " R"]
) -> UInt32[Array, " R"]:
    """The largest key whose weight reaches `goal` together with that of all larger ones.

    Found by bisection, which costs a sixth of sorting 50,000 keys.
    """

    def halve(
        _: Int[Array, ""], bounds: tuple[UInt32[Array, " R"], UInt32[Array, " R"]]
    ) -> tuple[UInt32[Array, " R"], UInt32[Array, " R"]]:
        low, high = bounds
        middle = low + (high - low) // 2
        reached = _mass_above(middle, keys, weights) < goal
        return jnp.where(reached, low, middle + 1), jnp.where(reached, middle, high)

    return lax.fori_loop(0, 32, halve, (keys.min(-1), keys.max(-1)))[1]


def _mass_above(
    key: UInt32[Array, " R"], keys: UInt32[Array, "R V"], weights: Float[Array, "R V"]
) -> Float[Array, " R"]:
    return jnp.where(keys > key[:, None], weights, 0).sum(-1)


def _last_of(ties: Bool[Array, "R V"], count: Int[Array, " R"]) -> Bool[Array, "R V"]:
    """The last `count` True of each row: transformers' ascending sort drops earlier ties first."""

    def cut(ties: Bool[Array, "R V"]) -> Bool[Array, "R V"]:
        from_end = lax.cumsum(ties.astype(jnp.int32), axis=1, reverse=True)
        return ties & (from_end <= count[:, None])

    # Two equal logits at the boundary are rare, and counting them is a pass over the vocabulary.
    return lax.cond((ties.sum(-1) > count).any(), cut, lambda ties: ties, ties)
