"""Choosing the next token, with random numbers that depend on the request alone."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from neox_eqx.generation.history import History
from neox_eqx.generation.options import ResolvedOptions
from neox_eqx.generation.processors.chain import Processor, Warper, processors_of, warpers_of

_BLOCK = 256


class Sampler(eqx.Module):
    """How each row chooses: `processors` shape every choice, `warpers` only where a row samples.

    `greedy` is None where every row is; then no random number is drawn.
    """

    processors: tuple[Processor, ...]
    warpers: tuple[Warper, ...]
    greedy: Bool[Array, " R"] | None
    seed: UInt32[Array, " R"]
    sample: Int[Array, " R"]

    @classmethod
    def of(
        cls,
        requests: Sequence[ResolvedOptions],
        known: np.ndarray | None = None,
        eos: Sequence[int] = (),
    ) -> "Sampler":
        """A row for each sample of each request; `known`, (V,) of bool, masks all other tokens."""
        rows = [options for options in requests for _ in range(options.num_samples)]
        numbers = [n for options in requests for n in range(options.num_samples)]
        greedy = np.array([options.temperature == 0 for options in rows])
        return cls(
            processors=processors_of(rows, eos, known),
            warpers=() if greedy.all() else warpers_of(rows),
            greedy=None if greedy.all() else jnp.asarray(greedy),
            seed=jnp.asarray([options.seed for options in rows], jnp.uint32),
            sample=jnp.asarray(numbers, jnp.int32),
        )

    def choose(self, logits: Float[Array, "R V"], history: History) -> Int[Array, " R"]:
        """The next token of each row."""
        for processor in self.processors:
            logits = processor(logits, history)
        likeliest = first_of_largest(logits)
        if self.greedy is None:
            return likeliest
        for warper in self.warpers:
            logits = warper(logits)
        drawn = draw(logits, uniforms(self.seed, self.sample, history.length))
        return jnp.where(self.greedy, likeliest, drawn)


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
