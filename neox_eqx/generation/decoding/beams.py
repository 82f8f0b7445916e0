"""Beam search and beam sampling, as transformers defines them."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from neox_eqx.generation.arrays import array
from neox_eqx.generation.decoding.rows import Rows
from neox_eqx.generation.decoding.strategy import Choice, Results, Strategy
from neox_eqx.generation.history import History
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.processors.chain import Processor, Warper, processors_of, warpers_of
from neox_eqx.generation.stopping.ending import ERROR, Ending
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary

IMPOSSIBLE = -1e9
"""Added to the score of what is not to be chosen, as in transformers: it still has an order."""
EARLY_STOPPING = (False, True, "never")


class Found(eqx.Module):
    """What the search remembers of each prompt."""

    score: Float[Array, "B K"]
    """Of the running beams: sums of processed log-probabilities, the best first."""
    texts: Rows
    """The best K finished texts so far; where there are fewer, `finish` is 0."""
    text_score: Float[Array, "B K"]
    """Their scores, divided by the length to the power of the length penalty, the best first."""
    done: Bool[Array, " B"]
    """Whether the prompt's search is over."""
    failed: Int[Array, " B"]
    """The number, from 1, of the token for which a beam's logits were NaN; 0 without such."""


class BeamSearch(Strategy):
    """K beams for each prompt, which go on from the best of their candidates.

    A candidate is one of the K x V texts that are longer by a token. The best M are looked at, so
    many that K go on even where each beam ends with every EOS. With a temperature the M are drawn,
    without replacement, in proportion to their probability.
    """

    processors: tuple[Processor, ...]
    warpers: tuple[Warper, ...]
    greedy: Bool[Array, " B"]
    seed: UInt32[Array, " B"]
    length_penalty: Float[Array, " B"]
    early_stopping: Int[Array, " B"]
    """An index into EARLY_STOPPING."""
    limit: Int[Array, " B"]
    ending: Ending
    """Of the candidates: B x M rows."""
    beams: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)
    draws: bool = eqx.field(static=True)
    """Whether some prompt is not greedy."""
    renormalize: Bool[Array, " B"] | None = None
    """Whose processed log-probabilities are normalised again; None where no prompt's are."""

    @classmethod
    def of(
        cls,
        requests: Sequence[ResolvedOptions],
        limits: Sequence[int],
        vocabulary: Vocabulary = NO_VOCABULARY,
        batch_mates: Sequence[ResolvedOptions] = (),
    ) -> "BeamSearch":
        """Searches for requests of as many beams each; the arguments are those of `Sampler.of`."""
        (beams,) = {options.num_beams for options in (*requests, *batch_mates)}
        at_least = max(2, 1 + len(vocabulary.eos))
        number = at_least * beams
        rows = [options for options in requests for _ in range(beams)]
        candidates = [options for options in requests for _ in range(number)]
        greedy = np.array([options.temperature == 0 for options in requests])
        draws = any(options.temperature != 0 for options in (*requests, *batch_mates))
        modes = [EARLY_STOPPING.index(options.early_stopping) for options in requests]
        return cls(
            processors=processors_of(rows, vocabulary, batch_mates),
            warpers=warpers_of(rows, at_least=at_least, batch_mates=batch_mates) if draws else (),
            greedy=array(greedy),
            seed=array([options.seed for options in requests], np.uint32),
            length_penalty=array([o.length_penalty for o in requests], np.float32),
            early_stopping=array(modes, np.int32),
            limit=array(limits, np.int32),
            ending=Ending.of(candidates, np.repeat(limits, number), vocabulary, batch_mates),
            beams=beams,
            candidates=number,
            draws=draws,
            renormalize=array([o.renormalize_logits for o in requests])
            if any(options.renormalize_logits for options in (*requests, *batch_mates))
            else None,
        )

    @property
    def num_rows(self) -> int:
        return len(self.seed) * self.beams

    def begin(self, prompts: int, slots: int) -> Found:
        """At first all beams are the same text: only the first of them has a future."""
        shape = (prompts, self.beams)
        return Found(
            score=jnp.full(shape, IMPOSSIBLE, jnp.float32).at[:, 0].set(0),
            texts=Rows.empty(prompts * self.beams, slots),
            text_score=jnp.full(shape, -jnp.inf, jnp.float32),
            done=jnp.zeros(prompts, bool),
            failed=jnp.zeros(prompts, jnp.int32),
        )

    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: Found
    ) -> Choice:
        """The beams that go on from the best candidates; those that end join what is found."""
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        score, parents, token = self._candidates(logprobs, history, memory)
        logprob = logprobs.reshape(len(parents), self.beams, -1)
        logprob = jax.vmap(lambda own, beam, token: own[beam, token])(logprob, parents, token)
        longer = rows.take(parents).add(token.reshape(-1), logprob.reshape(-1))
        text = History(history.prompt, longer.tokens, longer.lengths)
        ended = longer.end(self.ending.reason(text))
        length = longer.lengths[:: self.candidates]
        ends = ended.done.reshape(score.shape)

        going_on, order = lax.top_k(jnp.where(ends, score + IMPOSSIBLE, score), self.beams)
        texts, text_score = self._best(memory, ended, score, length)
        # One logit that is no number makes NaN of all log-probabilities of its row.
        is_nan = jnp.isnan(logprobs[:, 0]).reshape(-1, self.beams).any(-1)
        failed = jnp.where(is_nan & ~memory.done, length, memory.failed)
        done = self._done(memory, texts, text_score, going_on[:, 0], ends.all(-1), length)
        done |= failed > 0
        rows = longer.take(order).end(jnp.repeat(done.astype(jnp.int32), self.beams))
        parents = jnp.take_along_axis(parents, order, axis=1)
        return Choice(rows, parents, Found(going_on, texts, text_score, done, failed))

    def cache_rows(self, prompts: int) -> int:
        """The beams of a prompt share a row, as they go on from each other."""
        return prompts

    def results(self, rows: Rows, memory: Found) -> Results | None:
        """The finished texts of each prompt, the best first, once all searches are over.

        Where a search failed, of which no text is known to be the best, all of them did.
        """
        if not memory.done.all():
            return None
        failed = jnp.repeat(memory.failed, self.beams)
        texts = memory.texts
        lengths = jnp.where(failed > 0, failed - 1, texts.lengths)
        finish = jnp.where(failed > 0, ERROR, texts.finish)
        texts = Rows(texts.tokens, texts.logprobs, lengths, finish)
        return Results(texts, memory.text_score.reshape(-1))

    def _candidates(
        self, logprobs: Float[Array, "R V"], history: History, memory: Found
    ) -> tuple[Float[Array, "B M"], Int[Array, "B M"], Int[Array, "B M"]]:
        """Scores of the candidates, the beams that they go on from, and their tokens.

        Processors and warpers are given log-probabilities, as in transformers.
        """
        prompts, vocab = len(self.seed), logprobs.shape[-1]
        for processor in self.processors:
            logprobs = processor(logprobs, history)
        if self.draws:
            warped = logprobs
            for warper in self.warpers:
                warped = warper(warped)
            sampled = jnp.repeat(~self.greedy, self.beams)[:, None]
            logprobs = jnp.where(sampled, warped, logprobs)
        if self.renormalize is not None:
            wanted = jnp.repeat(self.renormalize, self.beams)[:, None]
            logprobs = jnp.where(wanted, jax.nn.log_softmax(logprobs, axis=-1), logprobs)
        score = (logprobs + memory.score.reshape(-1, 1)).reshape(prompts, -1)
        order = score
        if self.draws:
            noise = _gumbel(self.seed, history.length[:: self.beams], score.shape[-1])
            order = jnp.where(self.greedy[:, None], score, score + noise)
        _, index = lax.top_k(order, self.candidates)
        return jnp.take_along_axis(score, index, axis=1), index // vocab, index % vocab

    def _best(
        self, memory: Found, ended: Rows, score: Float[Array, "B M"], length: Int[Array, " B"]
    ) -> tuple[Rows, Float[Array, "B K"]]:
        """The best of the finished texts so far, and of the first K candidates that have ended."""
        new = score / (length.astype(jnp.float32) ** self.length_penalty)[:, None]
        first = jnp.arange(self.candidates) < self.beams
        eligible = ended.done.reshape(score.shape) & first & ~memory.done[:, None]
        # However unlikely a text is: above -inf, the score of one that was not found.
        new = jnp.where(eligible, jnp.maximum(new, jnp.finfo(jnp.float32).min), -jnp.inf)
        text_score, order = lax.top_k(jnp.concatenate([memory.text_score, new], 1), self.beams)

        def both(old: Array, new: Array) -> Array:
            apart = (x.reshape(len(score), -1, *x.shape[1:]) for x in (old, new))
            joined = jnp.concatenate([*apart], axis=1)
            return joined.reshape(-1, *joined.shape[2:])

        return jax.tree.map(both, memory.texts, ended).take(order), text_score

    def _done(
        self,
        memory: Found,
        texts: Rows,
        text_score: Float[Array, "B K"],
        best: Float[Array, " B"],
        all_end: Bool[Array, " B"],
        length: Int[Array, " B"],
    ) -> Bool[Array, " B"]:
        """Whether each prompt's search is over, with `best` the score of its best running beam.

        It is over where all candidates end; where K texts are found and early stopping is True; or
        where the best running beam, scored at an assumed final length, is not better than the worst
        of K texts. That length is the present one, though with a length penalty above 0 a longer
        text may score better: there "never" assumes the limit.
        """
        full = texts.done.reshape(text_score.shape).all(-1)
        never = EARLY_STOPPING.index("never")
        longest = (self.early_stopping == never) & (self.length_penalty > 0)
        final = jnp.where(longest, self.limit, length).astype(jnp.float32)
        worst = jnp.where(full, text_score[:, -1], IMPOSSIBLE)
        hopeless = best / final**self.length_penalty <= worst
        enough = full & (self.early_stopping == EARLY_STOPPING.index(True))
        return memory.done | hopeless | enough | all_end


def _gumbel(
    seed: UInt32[Array, " B"], position: Int[Array, " B"], size: int
) -> Float[Array, "B S"]:
    """Noise whose largest sums with log-probabilities are a draw without replacement.

    The Gumbel-top-k trick (Kool et al. 2019, arXiv:1903.06059). Folded from (seed, position)
    and nothing else.
    """

    def one(seed: UInt32[Array, ""], position: Int[Array, ""]) -> Float[Array, " S"]:
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.random.gumbel(jax.random.fold_in(key, position), (size,))

    return jax.vmap(one)(seed, position)
