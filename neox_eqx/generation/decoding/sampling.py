"""Choosing the next token, with random numbers that depend on the request alone."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from neox_eqx.generation.arrays import array
from neox_eqx.generation.decoding.rows import Rows
from neox_eqx.generation.decoding.strategy import Choice, Results, Strategy
from neox_eqx.generation.history import History
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.processors.chain import Processor, Warper, processors_of, warpers_of
from neox_eqx.generation.stopping.ending import ERROR, Ending
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary

# Near the square root of 50,000 words, so that both sums of `draw` are short.
_BLOCK = 256


class Sampler(Strategy):
    """Samples each row by itself: `processors` shape every choice, `warpers` only a drawn one."""

    processors: tuple[Processor, ...]
    warpers: tuple[Warper, ...]
    greedy: Bool[Array, " R"]
    seed: UInt32[Array, " R"]
    sample: Int[Array, " R"]
    ending: Ending
    has_greedy: bool = eqx.field(static=True)
    """Whether some row or batch mate is greedy: where none is, no largest logit is looked for."""
    has_drawn: bool = eqx.field(static=True)
    """Whether some row or batch mate draws: where none does, nothing is drawn."""

    @classmethod
    def of(
        cls,
        requests: Sequence[ResolvedOptions],
        limits: Sequence[int],
        vocabulary: Vocabulary = NO_VOCABULARY,
        batch_mates: Sequence[ResolvedOptions] = (),
    ) -> "Sampler":
        """A row for each sample of each request, of at most limits[i] tokens for request i.

        `batch_mates` are the options of requests that run the same program, in this batch or in
        others: the program has what any of them needs.
        """
        rows = [options for options in requests for _ in range(options.num_samples)]
        numbers = [n for options in requests for n in range(options.num_samples)]
        samples = [options.num_samples for options in requests]
        greedy = np.array([options.temperature == 0 for options in rows])
        is_greedy = [options.temperature == 0 for options in (*requests, *batch_mates)]
        return cls(
            processors=processors_of(rows, vocabulary, batch_mates),
            warpers=() if all(is_greedy) else warpers_of(rows, batch_mates=batch_mates),
            greedy=array(greedy),
            seed=array([options.seed for options in rows], np.uint32),
            sample=array(numbers, np.int32),
            ending=Ending.of(rows, np.repeat(limits, samples), vocabulary, batch_mates),
            has_greedy=any(is_greedy),
            has_drawn=not all(is_greedy),
        )

    @property
    def num_rows(self) -> int:
        return len(self.seed)

    def begin(self, prompts: int, slots: int) -> None:
        """No memory: the choice depends on each row's own text alone."""

    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: None
    ) -> Choice:
        """The next token of each row; logits of NaN or infinity end the row without one."""
        token = self.tokens(logits, history)
        logprob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        logprob = logprob - jax.nn.logsumexp(logits, axis=-1)
        rows = rows.end(jnp.where(jnp.isfinite(logprob), 0, ERROR))
        rows = rows.add(token, logprob)
        longer = History(history.prompt, rows.tokens, rows.lengths)
        return Choice(rows.end(self.ending.reason(longer)), None, None)

    def tokens(self, logits: Float[Array, "R V"], history: History) -> Int[Array, " R"]:
        """What follows in each row."""
        for processor in self.processors:
            logits = processor(logits, history)
        if not self.has_drawn:
            return first_of_largest(logits)
        warped = logits
        for warper in self.warpers:
            warped = warper(warped)
        drawn = draw(warped, uniforms(self.seed, self.sample, history.length))
        if not self.has_greedy:
            return drawn
        return jnp.where(self.greedy, first_of_largest(logits), drawn)

    def cache_rows(self, prompts: int) -> int:
        return self.num_rows

    def results(self, rows: Rows, memory: None) -> Results:
        """The rows as they are by now."""
        return Results(rows)


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
