"""Which processors a batch needs, in transformers' order.

A processor that no row uses is left out, so the program that compiles depends on which are there;
rows that do not use one have a value at which it does nothing. `batch_mates` are the options of
rows that run the same program, in this or other batches: a processor is there where any row or
mate needs it, and its arrays are as wide as the widest of them needs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from neox_eqx.generation.arrays import array
from neox_eqx.generation.history import NOTHING, History
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.processors.bans import (
    AllowedTokens,
    BadWords,
    MinLength,
    NoRepeatNGram,
    SuppressTokens,
    SuppressTokensAtBegin,
)
from neox_eqx.generation.processors.penalties import (
    ExponentialDecayLengthPenalty,
    FrequencyPenalty,
    PresencePenalty,
    RepetitionPenalty,
    SequenceBias,
)
from neox_eqx.generation.processors.warpers import (
    AtLeast,
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary
from neox_eqx.generation.words import Words

Processor = Callable[[Float[Array, "R V"], History], Float[Array, "R V"]]
Warper = Callable[[Float[Array, "R V"]], Float[Array, "R V"]]
Rows = Sequence[ResolvedOptions]

_INT_MAX = 2**31 - 1


def processors_of(
    rows: Rows,
    vocabulary: Vocabulary = NO_VOCABULARY,
    batch_mates: Rows = (),
) -> tuple[Processor, ...]:
    """For every choice. Penalties that transformers lacks come after its repetition penalty."""
    chain: list[Processor] = []
    eos, every = vocabulary.eos, (*rows, *batch_mates)
    if vocabulary.allowed is not None:
        chain.append(AllowedTokens(array(vocabulary.allowed)))
    if any(row.sequence_bias for row in every):
        chain.append(_sequence_bias(rows, batch_mates))
    if _differ(every, "repetition_penalty", 1):
        chain.append(RepetitionPenalty(_floats(rows, "repetition_penalty")))
    if _differ(every, "presence_penalty", 0):
        chain.append(PresencePenalty(_floats(rows, "presence_penalty")))
    if _differ(every, "frequency_penalty", 0):
        chain.append(FrequencyPenalty(_floats(rows, "frequency_penalty")))
    if _differ(every, "no_repeat_ngram_size", 0):
        chain.append(NoRepeatNGram(_ints(rows, "no_repeat_ngram_size")))
    # As in transformers, a word that is an EOS id and nothing else is not bad.
    ends = {(id,) for id in eos}
    bad, other_bad = (
        [[word for word in row.bad_words_ids if word not in ends] for row in some]
        for some in (rows, batch_mates)
    )
    if any((*bad, *other_bad)):
        chain.append(BadWords(Words.of(bad, other_bad)))
    if eos and any(row.min_new_tokens or row.min_length for row in every):
        chain.append(_min_length(rows, eos))
    if eos and any(row.exponential_decay_length_penalty[1] != 1 for row in every):
        chain.append(_decay(rows, eos))
    if any(row.suppress_tokens for row in every):
        chain.append(SuppressTokens(_id_lists(rows, batch_mates, "suppress_tokens")))
    if any(row.begin_suppress_tokens for row in every):
        chain.append(SuppressTokensAtBegin(_id_lists(rows, batch_mates, "begin_suppress_tokens")))
    return tuple(chain)


def warpers_of(rows: Rows, *, at_least: int = 1, batch_mates: Rows = ()) -> tuple[Warper, ...]:
    """For rows that sample; each warper leaves `at_least` tokens to draw from."""
    chain: list[Warper] = []
    every = (*rows, *batch_mates)

    def add(warper: Any) -> None:
        chain.append(warper if at_least == 1 else AtLeast(warper, at_least))

    if _differ(every, "temperature", 1):
        # At these bounds the distribution is at its limit, and float32 still divides.
        divisor = [min(max(row.temperature, 1e-30), 1e30) if row.temperature else 1 for row in rows]
        chain.append(Temperature(array(divisor, np.float32)))
    if _differ(every, "top_k", 0):
        add(TopK(_ints(rows, "top_k"), bucket(max(row.top_k for row in every))))
    if _differ(every, "top_p", 1):
        add(TopP(_floats(rows, "top_p")))
    if _differ(every, "min_p", 0):
        add(MinP(_floats(rows, "min_p")))
    if _differ(every, "typical_p", 1):
        chain.append(TypicalP(_floats(rows, "typical_p"), at_least))
    if _differ(every, "epsilon_cutoff", 0):
        add(EpsilonCutoff(_floats(rows, "epsilon_cutoff")))
    if _differ(every, "eta_cutoff", 0):
        add(EtaCutoff(_floats(rows, "eta_cutoff")))
    return tuple(chain)


def _differ(rows: Rows, name: str, neutral: float) -> bool:
    return any(getattr(row, name) != neutral for row in rows)


def _floats(rows: Rows, name: str) -> jax.Array:
    return array([getattr(row, name) for row in rows], np.float32)


def _ints(rows: Rows, name: str) -> jax.Array:
    return array([min(getattr(row, name), _INT_MAX) for row in rows], np.int32)


def _sequence_bias(rows: Rows, batch_mates: Rows) -> SequenceBias:
    words = Words.of(
        *([[word for word, _ in row.sequence_bias] for row in some] for some in (rows, batch_mates))
    )
    bias = np.zeros(words.last.shape, np.float32)
    for number, row in enumerate(rows):
        bias[number, : len(row.sequence_bias)] = [value for _, value in row.sequence_bias]
    return SequenceBias(words, array(bias))


def _min_length(rows: Rows, eos: Sequence[int]) -> MinLength:
    return MinLength(
        # transformers overrides min_length where there are min_new_tokens, be it 0.
        array([row.min_length if row.min_new_tokens is None else 0 for row in rows], np.int32),
        array([row.min_new_tokens or 0 for row in rows], np.int32),
        array(eos, np.int32),
    )


def _decay(rows: Rows, eos: Sequence[int]) -> ExponentialDecayLengthPenalty:
    starts, factors = zip(*(row.exponential_decay_length_penalty for row in rows), strict=True)
    # log 0 is -inf, of which 0 tokens would make NaN; exp(-100) is as good as a factor of 0.
    logs = [math.log(factor) if factor else -100.0 for factor in factors]
    return ExponentialDecayLengthPenalty(
        array([min(start, _INT_MAX) for start in starts], np.int32),
        array(logs, np.float32),
        array(eos, np.int32),
    )


def _id_lists(rows: Rows, batch_mates: Rows, name: str) -> jax.Array:
    most = max(len(getattr(row, name)) for row in (*rows, *batch_mates))
    ids = np.full((len(rows), bucket(most)), NOTHING, np.int32)
    for number, row in enumerate(rows):
        own = getattr(row, name)
        ids[number, : len(own)] = own
    return array(ids)
