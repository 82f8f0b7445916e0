"""Choosing the next token, with random numbers that depend on the request alone."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options import ResolvedOptions
from neox_eqx.generation.processors import (
    KnownTokens,
    MinP,
    Processor,
    Temperature,
    TopK,
    TopP,
)

_BLOCK = 256


class Sampler(eqx.Module):
    """How each row chooses: `masks` shape every choice, `warpers` only where a row samples.

    `greedy` is None where every row is; then no random number is drawn.
    """

    masks: tuple[Processor, ...]
    warpers: tuple[Processor, ...]
    greedy: Bool[Array, " R"] | None
    seed: UInt32[Array, " R"]
    sample: Int[Array, " R"]

    @classmethod
    def of(cls, requests: Sequence[ResolvedOptions], known: np.ndarray | None = None) -> "Sampler":
        """A row for each sample of each request; `known`, (V,) of bool, masks all other tokens.

        A processor that no row uses is left out, so which are there is part of what compiles.
        """
        rows = [(options, n) for options in requests for n in range(options.num_samples)]
        values = {
            name: np.array([getattr(options, name) for options, _ in rows])
            for name in ("temperature", "top_k", "top_p", "min_p", "seed")
        }
        greedy = values["temperature"] == 0
        return cls(
            masks=() if known is None else (KnownTokens(jnp.asarray(known)),),
            warpers=() if greedy.all() else _warpers(values),
            greedy=None if greedy.all() else jnp.asarray(greedy),
            seed=jnp.asarray(values["seed"], jnp.uint32),
            sample=jnp.asarray([n for _, n in rows], jnp.int32),
        )

    def choose(self, logits: Float[Array, "R V"], position: Int[Array, " R"]) -> Int[Array, " R"]:
        """The token of each row for `position`, the number of tokens before it in its text."""
        for mask in self.masks:
            logits = mask(logits)
        likeliest = first_of_largest(logits)
        if self.greedy is None:
            return likeliest
        for warper in self.warpers:
            logits = warper(logits)
        drawn = draw(logits, uniforms(self.seed, self.sample, position))
        return jnp.where(self.greedy, likeliest, drawn)


def _warpers(values: dict[str, np.ndarray]) -> tuple[Processor, ...]:
    """transformers' warpers in its order, without those that are off in every row."""
    temperature, top_k, top_p, min_p = (
        values[name] for name in ("temperature", "top_k", "top_p", "min_p")
    )
    warpers: list[Processor] = []
    if (temperature != 1).any():
        # At these bounds the distribution is at its limit, and float32 still divides.
        divisor = np.where(temperature == 0, 1, np.clip(temperature, 1e-30, 1e30))
        warpers.append(Temperature(jnp.asarray(divisor, jnp.float32)))
    if (top_k > 0).any():
        largest = bucket(int(top_k.max()))
        warpers.append(TopK(jnp.asarray(np.minimum(top_k, 2**31 - 1), jnp.int32), largest))
    if (top_p < 1).any():
        warpers.append(TopP(jnp.asarray(top_p, jnp.float32)))
    if (min_p > 0).any():
        warpers.append(MinP(jnp.asarray(min_p, jnp.float32)))
    return tuple(warpers)


def first_of_largest(logits: Float[Array, "R V"]) -> Int[Array, " R"]:
    """As argmax. Two plain reductions: a mesh that splits the vocabulary gathers for argmax."""
    size = logits.shape[-1]
    is_largest = logits == logits.max(-1, keepdims=True)
    # Of a row of NaN, where nothing is the largest, the last: still a token of the vocabulary.
    return jnp.where(is_largest, jnp.arange(size, dtype=jnp.int32), size - 1).min(-1)


def uniforms(
    seed: UInt32[Array, " R"], sample: Int[Array, " R"], position: Int[Array, " R"]
) -> Float[Array, " R"]:
    """A number in [0, 1) for each row, folded from (seed, sample, position) and nothing else."""

    def one(seed: UInt32[Array, ""], sample: Int[Array, ""], position: Int[Array, ""]) -> Array:
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, sample), position))

    return jax.vmap(one)(seed, sample, position)


def draw(logits: Float[Array, "R V"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """Inverts the cumulative distribution of softmax(logits) at `uniform`.

    One number a row and two short cumulative sums, over blocks and then inside one: a Gumbel
    draw needs a random number for every word of the vocabulary.
    """
    rows, size = logits.shape
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    blocks = jnp.pad(weights, ((0, 0), (0, -size % _BLOCK))).reshape(rows, -1, _BLOCK)
    block, rest = _invert(blocks.sum(-1), uniform)
    chosen = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    within, _ = _invert(chosen, rest)
    return block * _BLOCK + within


def _invert(
    weights: Float[Array, "R N"], uniform: Float[Array, " R"]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """The index where the cumulative share passes `uniform`, and how far into it, in [0, 1)."""
    cumulative = jnp.cumsum(weights, axis=-1)
    # A parallel sum rounds its partial sums apart, so they may rise where the weight is 0.
    positive = weights > 0
    total = jnp.where(positive, cumulative, 0).max(-1)
    # Below the total even after rounding, so that some sum passes it.
    target = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    passing = positive & (cumulative > target[:, None])
    index = jnp.argmax(passing, axis=-1).astype(jnp.int32)
    weight = jnp.take_along_axis(weights, index[:, None], axis=-1)[:, 0]
    before = jnp.take_along_axis(cumulative, index[:, None], axis=-1)[:, 0] - weight
    return index, jnp.clip((target - before) / weight, 0, 1)
