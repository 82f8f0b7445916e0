"""Scores token ids after a context, in batches of similar length."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.not_a_number import not_numbers
from neox_eqx.generation.decoding.scores import NOT_ASKED, Scores, token_scores
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.rules import constrain


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One of the likeliest tokens at a position."""

    token: int
    probability: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Tokens to score, and the context before them, of one token at least."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    def check(self, vocab_size: int, positions: int) -> None:
        """Checks that a model with so many positions can score it.

        Raises:
            InputError: it has no context or is too long, or an id is not in the vocabulary.
        """
        if not self.context:
            raise InputError("has nothing before its first token; give BOS or EOS as the context")
        ids = self.context + self.tokens
        # The last token is only predicted, and takes no position.
        if len(ids) > positions + 1:
            raise InputError(
                f"has {len(ids)} tokens, but the model has {positions} positions, which score "
                f"a text of {positions + 1} at most; shorten or split it"
            )
        if wrong := [id for id in ids if not 0 <= id < vocab_size]:
            raise InputError(
                f"token id {wrong[0]} is not in the model's vocabulary of {vocab_size}; "
                "the tokenizer belongs to another model"
            )


@dataclasses.dataclass(frozen=True)
class PairScore:
    """For each token: its log-probability, whether it is the likeliest, and which tokens are."""

    logprobs: tuple[float, ...]
    are_greedy: tuple[bool, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    """The likeliest first; empty where none were asked for."""
    error: str | None = None
    """Why some log-probabilities are no numbers; they are -inf then."""


def score_pairs(
    model: GPTNeoX,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    candidates: int = 0,
    done: Collection[int] = (),
) -> Iterator[list[tuple[int, PairScore]]]:
    """Yields the pairs' indices and scores, a batch at a time, the longest pairs first.

    Pairs must have passed `check`. Where the model's logits are no numbers, a pair fails alone.
    Pairs that are `done`, by their indices, are left out. They still run where another of their
    batch is not done, since what runs together decides the last bits.
    """
    order = sorted(range(len(pairs)), key=lambda index: -_length(pairs[index]))
    # The last and shortest batch is filled up: compiling for its size would take longer.
    rows = min(batch_size, len(order))
    rows += -rows % (model.mesh.shape["data"] if model.mesh else 1)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        if all(index in done for index in batch):
            continue
        scores = _score([pairs[index] for index in batch], model, rows, candidates)
        both = zip(batch, scores, strict=True)
        yield [(index, score) for index, score in both if index not in done]


def _length(pair: Pair) -> int:
    """Positions that the model computes: what precedes the last token."""
    return len(pair.context) + len(pair.tokens) - 1


def _score(
    pairs: Sequence[Pair], model: GPTNeoX, rows: int, candidates: int
) -> Iterator[PairScore]:
    shape = (rows, bucket(_length(pairs[0])))
    tokens, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    targets = np.full(shape, NOT_ASKED, np.int32)
    for row, pair in enumerate(pairs):
        length = _length(pair)
        tokens[row, :length] = (pair.context + pair.tokens)[:-1]
        valid[row, :length] = True
        targets[row, len(pair.context) - 1 : length] = pair.tokens
    scores = jax.device_get(_score_batch(model, tokens, valid, targets, candidates=candidates))
    for row, pair in enumerate(pairs):
        start = row * shape[1] + len(pair.context) - 1
        score = _pair_score(scores, slice(start, start + len(pair.tokens)))
        yield score if np.isfinite(score.logprobs).all() else _failed(score, model.dtype)


def _pair_score(scores: Scores, own: slice) -> PairScore:
    ids, probabilities = scores.candidates[own], np.exp(scores.candidate_logprobs[own])
    return PairScore(
        tuple(scores.logprob[own].tolist()),
        tuple(scores.is_greedy[own].tolist()),
        tuple(
            tuple(map(Candidate, *both))
            for both in zip(ids.tolist(), probabilities.tolist(), strict=True)
        ),
    )


def _failed(score: PairScore, dtype: jnp.dtype) -> PairScore:
    """The score with -inf for tokens that the model gives no number.

    Tokens before a NaN get no number either: attention multiplies what it masks by 0, and 0 times
    NaN is NaN.
    """
    are_numbers = np.isfinite(score.logprobs)
    return PairScore(
        tuple(np.where(are_numbers, score.logprobs, -np.inf).tolist()),
        tuple((score.are_greedy & are_numbers).tolist()),
        score.candidates,
        not_numbers("the text", dtype),
    )


@partial(jax.jit, static_argnames="candidates")
def _score_batch(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    targets: Int[Array, "B T"],
    *,
    candidates: int,
) -> Scores:
    hidden, _ = model(tokens, valid)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    scores = token_scores(model, hidden, targets.reshape(-1), candidates=candidates)
    return jax.tree.map(lambda x: constrain(x, model.mesh), scores)
