"""A batch of requests through the loop, and what each of its rows has become."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx.errors import InputError
from neox_eqx.generation.arrays import array
from neox_eqx.generation.decoding.beams import BeamSearch
from neox_eqx.generation.decoding.loop import decode_all, read_prompts
from neox_eqx.generation.decoding.not_a_number import not_numbers
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.decoding.state import State
from neox_eqx.generation.decoding.strategy import Strategy
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.stopping.ending import REASONS
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment

_NOT_FOUND = (
    "the search found fewer texts than num_return_sequences, as the options forbid all others; ask "
    "for fewer, or forbid less"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt as token ids, at least one, and the options of its completions."""

    tokens: tuple[int, ...]
    options: ResolvedOptions


@dataclasses.dataclass(frozen=True)
class Row:
    """One completion, finished or not.

    `finish_reason` is None while it goes on, then "eos", "stop", "length" or "error". Of a row
    that failed, `error` says why, and the tokens are those before; other rows go on. `logprobs` are
    natural logarithms under the model itself, before any processing. `score` is a beam search's:
    summed processed log-probabilities, divided by length ** length_penalty.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str | None
    score: float | None = None
    error: str | None = None

    @property
    def logprob(self) -> float:
        """Of all tokens together."""
        return sum(self.logprobs, 0.0)

    def failed(self, error: str, tokens: int) -> "Row":
        """The row as it ends for this reason after so many of its tokens."""
        return Row(self.tokens[:tokens], self.logprobs[:tokens], "error", error=error)


def run(
    model: GPTNeoX,
    requests: Sequence[Request],
    vocabulary: Vocabulary,
    *,
    past: tuple[Segment, ...] = (),
    stride: int | None = None,
    pad_to: int = 1,
    batch_mates: Sequence[ResolvedOptions] = (),
) -> Iterator[list[Row]]:
    """Yields the rows of a batch as they grow, the completions of each request in turn.

    The last list holds the finished rows; of a search with beams there is no other. A row whose
    logits become NaN or infinite, or that a search found no text for, ends in "error". `stride` is
    the number of tokens between two lists; None yields seldom and is fastest. All requests ask
    for the same number of samples, and of beams. The `past`, segments of one row, stands before
    all prompts. The batch is padded to a multiple of `pad_to` requests. `batch_mates` are the
    options of all requests that are to run the same program, in this batch or in others.

    Raises:
        InputError: a prompt is empty or does not fit, or a token id is not the model's.
    """
    for request in requests:
        request.options.check_ids(model.config.vocab_size)
    wanted = [request.options.num_completions for request in requests]
    limits = [
        request.options.new_tokens(len(request.tokens), room(model, past)) for request in requests
    ]
    # On a mesh the prompts must divide over its data axis, so the last is repeated.
    data = model.mesh.shape["data"] if model.mesh else 1
    missing = -len(requests) % pad_to
    missing += -(len(requests) + missing) % data
    requests = [*requests, *[requests[-1]] * missing]
    limits += [1] * missing
    tokens, valid = pad_prompts([request.tokens for request in requests], model.config.vocab_size)
    options = [request.options for request in requests]
    strategy = strategy_of(options, limits, vocabulary, batch_mates)
    prompt, first = read_prompts(model, tokens, valid, strategy, past)
    for state in decode_all(model, (*past, prompt), first, strategy, stride=stride):
        rows = rows_of(state, strategy, model)
        if rows is None:
            continue
        each = len(rows) // len(requests)
        yield [
            row
            for place, count in enumerate(wanted)
            for row in rows[place * each : place * each + count]
        ]


def strategy_of(
    options: Sequence[ResolvedOptions],
    limits: Sequence[int],
    vocabulary: Vocabulary = NO_VOCABULARY,
    batch_mates: Sequence[ResolvedOptions] = (),
) -> Strategy:
    """Sampler or BeamSearch, for requests of as many beams each; arguments as of `Sampler.of`."""
    kind = Sampler if options[0].num_beams == 1 else BeamSearch
    return kind.of(options, limits, vocabulary, batch_mates)


def room(model: GPTNeoX, past: Sequence[Segment]) -> int:
    """How many tokens the model has positions for after the past."""
    return model.config.context_length - sum(segment.slots for segment in past)


def pad_prompts(
    prompts: Sequence[Sequence[int]], vocab_size: int, slots: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Token ids padded on the right to `slots` or a bucket, and which of them are real.

    Raises:
        InputError: a prompt is empty or holds an id outside the vocabulary.
    """
    slots = bucket(max(len(prompt) for prompt in prompts)) if slots is None else slots
    shape = (len(prompts), slots)
    tokens, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {row} has no tokens; begin it with the model's BOS token")
        check_tokens(prompt, vocab_size)
        tokens[row, : len(prompt)] = prompt
        valid[row, : len(prompt)] = True
    return array(tokens), array(valid)


def check_tokens(prompt: Sequence[int], vocab_size: int) -> None:
    """Raises unless a model with this vocabulary knows all tokens.

    Raises:
        InputError: names the first that it does not.
    """
    if 0 <= min(prompt) <= max(prompt) < vocab_size:
        return
    wrong = next(token for token in prompt if not 0 <= token < vocab_size)
    raise InputError(
        f"token id {wrong} is not in the model's vocabulary of {vocab_size}; "
        "the tokenizer or bos_token_id belongs to another model"
    )


def rows_of(state: State, strategy: Strategy, model: GPTNeoX) -> list[Row] | None:
    """What the rows are by now; None where a search is not at its end."""
    results = strategy.results(state.rows, state.memory)
    if results is None:
        return None
    rows, scores = results
    tokens, logprobs, lengths, finish, scores = jax.device_get(
        (rows.tokens, rows.logprobs, rows.lengths, rows.finish, scores)
    )
    found = [
        Row(
            tuple(tokens[row, :length].tolist()),
            tuple(logprobs[row, :length].tolist()),
            REASONS[finish[row]],
            None if scores is None else float(scores[row]),
        )
        for row, length in enumerate(lengths.tolist())
    ]
    return [_told(row, model.dtype, of_search=scores is not None) for row in found]


def _told(row: Row, dtype: jnp.dtype, *, of_search: bool) -> Row:
    """The row with what there is to say of it if it failed; a search has no text then."""
    if row.finish_reason == "error":
        why = not_numbers(f"token {len(row.tokens) + 1} of the completion", dtype)
        return row.failed(why, 0 if of_search else len(row.tokens))
    if of_search and row.finish_reason is None:
        return row.failed(_NOT_FOUND, 0)
    return row
