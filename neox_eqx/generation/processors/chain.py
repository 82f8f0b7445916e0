"""Which processors a batch needs, in transformers' order.

One that no row uses is left out, so which are there is part of what compiles; rows that do not
use it have a value at which it does nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neox_eqx.generation.history import NOTHING, History
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options import ResolvedOptions
from neox_eqx.generation.processors.bans import (
    BadWords,
    KnownTokens,
    MinLength,
    NoRepeatNGram,
    SuppressTokens,
    SuppressTokensAtBegin,
)
from neox_eqx.generation.processors.penalties import (
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
from neox_eqx.generation.words import Words

Processor = Callable[[Float[Array, "R V"], History], Float[Array, "R V"]]
Warper = Callable[[Float[Array, "R V"]], Float[Array, "R V"]]
Rows = Sequence[ResolvedOptions]

_INT_MAX = 2**31 - 1


def processors_of(
    rows: Rows, eos: Sequence[int] = (), known: np.ndarray | None = None
) -> tuple[Processor, ...]:
    """What holds for every choice; penalties that transformers lacks follow the one it has."""
    chain: list[Processor] = []
    if known is not None:
        chain.append(KnownTokens(jnp.asarray(known)))
    if any(row.sequence_bias for row in rows):
        chain.append(_sequence_bias(rows))
    if _differ(rows, "repetition_penalty", 1):
        chain.append(RepetitionPenalty(_floats(rows, "repetition_penalty")))
    if _differ(rows, "presence_penalty", 0):
        chain.append(PresencePenalty(_floats(rows, "presence_penalty")))
    if _differ(rows, "frequency_penalty", 0):
        chain.append(FrequencyPenalty(_floats(rows, "frequency_penalty")))
    if _differ(rows, "no_repeat_ngram_size", 0):
        chain.append(NoRepeatNGram(_ints(rows, "no_repeat_ngram_size")))
    # As in transformers, a word that is an EOS id and nothing else is not bad.
    bad = [
        [word for word in row.bad_words_ids if word not in {(id,) for id in eos}] for row in rows
    ]
    if any(bad):
        chain.append(BadWords(Words.of(bad)))
    if eos and any(row.min_new_tokens or row.min_length for row in rows):
        chain.append(_min_length(rows, eos))
    if any(row.suppress_tokens for row in rows):
        chain.append(SuppressTokens(_id_lists(rows, "suppress_tokens")))
    if any(row.begin_suppress_tokens for row in rows):
        chain.append(SuppressTokensAtBegin(_id_lists(rows, "begin_suppress_tokens")))
    return tuple(chain)


def warpers_of(rows: Rows, *, at_least: int = 1) -> tuple[Warper, ...]:
    """What holds where a row samples; each leaves `at_least` so many tokens to draw from."""
    chain: list[Warper] = []

    def add(warper: Any) -> None:
        chain.append(warper if at_least == 1 else AtLeast(warper, at_least))

    if _differ(rows, "temperature", 1):
        temperature = np.array([row.temperature for row in rows])
        # At these bounds the distribution is at its limit, and float32 still divides.
        divisor = np.where(temperature == 0, 1, np.clip(temperature, 1e-30, 1e30))
        chain.append(Temperature(jnp.asarray(divisor, jnp.float32)))
    if _differ(rows, "top_k", 0):
        add(TopK(_ints(rows, "top_k"), bucket(max(row.top_k for row in rows))))
    if _differ(rows, "top_p", 1):
        add(TopP(_floats(rows, "top_p")))
    if _differ(rows, "min_p", 0):
        add(MinP(_floats(rows, "min_p")))
    if _differ(rows, "typical_p", 1):
        chain.append(TypicalP(_floats(rows, "typical_p"), at_least))
    if _differ(rows, "epsilon_cutoff", 0):
        add(EpsilonCutoff(_floats(rows, "epsilon_cutoff")))
    if _differ(rows, "eta_cutoff", 0):
        add(EtaCutoff(_floats(rows, "eta_cutoff")))
    return tuple(chain)


def _differ(rows: Rows, name: str, neutral: float) -> bool:
    return any(getattr(row, name) != neutral for row in rows)


def _floats(rows: Rows, name: str) -> jax.Array:
    return jnp.asarray([getattr(row, name) for row in rows], jnp.float32)


def _ints(rows: Rows, name: str) -> jax.Array:
    return jnp.asarray([min(getattr(row, name), _INT_MAX) for row in rows], jnp.int32)


def _sequence_bias(rows: Rows) -> SequenceBias:
    words = Words.of([[word for word, _ in row.sequence_bias] for row in rows])
    bias = np.zeros(words.last.shape, np.float32)
    for number, row in enumerate(rows):
        bias[number, : len(row.sequence_bias)] = [value for _, value in row.sequence_bias]
    return SequenceBias(words, jnp.asarray(bias))


def _min_length(rows: Rows, eos: Sequence[int]) -> MinLength:
    return MinLength(
        # transformers overrides min_length where there are min_new_tokens, be it 0.
        jnp.asarray(
            [row.min_length if row.min_new_tokens is None else 0 for row in rows], jnp.int32
        ),
        jnp.asarray([row.min_new_tokens or 0 for row in rows], jnp.int32),
        jnp.asarray(eos, jnp.int32),
    )


def _id_lists(rows: Rows, name: str) -> jax.Array:
    lists: list[Any] = [getattr(row, name) for row in rows]
    ids = np.full((len(rows), bucket(max(map(len, lists)))), NOTHING, np.int32)
    for row, own in enumerate(lists):
        ids[row, : len(own)] = own
    return jnp.asarray(ids)
