"""Reading and writing texts chunk by chunk, where many rows may share what stands before them."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.chunk import Chunk, align_left
from neox_eqx.generation.chunks.chunk_result import ChunkResult, text_of
from neox_eqx.generation.chunks.steps import begin, end, read
from neox_eqx.generation.decoding.loop import decode_all
from neox_eqx.generation.decoding.rows import Rows
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.decoding.strategy import Choice, Results, Strategy
from neox_eqx.generation.history import History
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.options.values import check_number
from neox_eqx.generation.stopping.ending import REASONS
from neox_eqx.generation.vocabulary import TokenBytes, Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.shown import shown

Options = GenerationOptions | ResolvedOptions


def prefill(
    model: GPTNeoX,
    prefix_chunks: Sequence[ChunkResult],
    chunk: Chunk,
    *,
    candidates: int = 0,
    scores: bool = True,
) -> ChunkResult:
    """Reads a chunk after the chunks before it, and finds `candidates` likeliest tokens per place.

    Each row of `prefix_chunks` stands before equally many neighbouring rows of the chunk. With
    `scores=False` scores are NaN, and logits are computed for the last token of each row alone,
    which is faster; candidates need scores.

    Examples:
        >>> model = GPTNeoX.init(GPTNeoXConfig(64, 32, 1, 4, 128), key=jax.random.key(0))
        >>> prompt = prefill(model, [], Chunk.of([[5, 6, 7]]))
        >>> tasks = prefill(model, [prompt], Chunk.of([[8, 9], [8], [10]]))
        >>> tasks.scores.shape
        (3, 16)

    Raises:
        InputError: a prefix does not belong here, a row has no token at all or is too long, a
            token id is not the model's, or there are to be candidates without scores.
    """
    if not isinstance(chunk, Chunk):
        raise InputError(f"prefill takes a Chunk, not {shown(chunk)}; Chunk.of([[5, 6, 7]]) is one")
    check_number("candidates", candidates, int, 0, model.config.vocab_size)
    if candidates and not scores:
        raise InputError(f"{candidates} candidates need the scores; leave scores=False out")
    before = text_of(model, prefix_chunks, len(chunk))
    _check(model, before, chunk)
    nothing = np.full((1, model.config.vocab_size), np.nan, np.float32)
    is_scored = chunk.is_real & scores
    told, next_logits, failed, segment = read(
        model,
        chunk.tokens,
        chunk.is_real,
        is_scored,
        tuple(result.segment for result in prefix_chunks),
        prefix_chunks[-1].next_logits if prefix_chunks else nothing,
        candidates=candidates,
    )
    told, failed = jax.device_get((told, failed))
    unknown = np.where(chunk.is_real, np.float32(np.nan), np.float32(0))
    has_past = np.arange(chunk.tokens.shape[1]) + before.lengths[:, None] > 0
    logprob = np.where(has_past & np.isnan(told.logprob), -np.inf, told.logprob)
    probs = np.where(chunk.is_real[..., None], np.exp(told.candidate_logprobs), 0)
    ids = np.where(chunk.is_real[..., None], told.candidates, 0)
    return ChunkResult(
        model,
        before,
        chunk,
        scores=np.where(is_scored, logprob, unknown),
        candidates=np.where(np.isnan(probs), -1, ids),
        candidate_probs=probs,
        next_logits=next_logits,
        segment=segment,
        finish_reasons=tuple("error" if each else None for each in failed.tolist()),
    )


def generate(
    model: GPTNeoX,
    sampling: Options | Sequence[Options],
    prefix_chunks: Sequence[ChunkResult],
    sample_ids: Sequence[int],
    steps: int,
    *,
    candidates: int = 0,
    eos: Sequence[int] | None = None,
    token_bytes: TokenBytes = (),
) -> tuple[Chunk, ChunkResult]:
    """Writes up to `steps` tokens after the prefix: a row for each of the `sample_ids`.

    Returns the tokens, and the result to stand before other chunks. `sampling` is for all rows or
    one for each. A row's random numbers depend on its seed, its sample id and the place in the
    whole text alone: the chunks may be split anywhere, and rows be added. Rows end
    at one of the ids `eos` and at what the options stop at. By default `eos` are those of
    config.json; where a generation_config.json may name others, give `TextGenerator.eos_token_ids`.
    Stops that are texts need `token_bytes`, what each token spells, from
    `neox_eqx.token_bytes`.

    Raises:
        InputError: as `prefill`, or an option is out of range or does not fit.
    """
    if not prefix_chunks:
        raise InputError("generate needs a text to go on from: prefill the model's BOS token first")
    check_number("candidates", candidates, int, 0, model.config.vocab_size)
    text = text_of(model, prefix_chunks, len(prefix_chunks[-1]))
    starts = text.repeat(len(sample_ids)).lengths
    eos = model.config.eos_token_ids if eos is None else eos
    vocabulary = Vocabulary(eos, token_bytes=token_bytes)
    sampler = _sampler(model, sampling, starts, sample_ids, steps, vocabulary)
    strategy = _WithCandidates(sampler, candidates)
    past = tuple(result.segment for result in prefix_chunks)
    state = begin(model, text.tokens, text.is_real, prefix_chunks[-1].next_logits, strategy, past)
    *_, state = decode_all(model, past, state, strategy)
    rows = jax.device_get(state.rows)
    chunk = Chunk(*align_left(rows.tokens, np.arange(rows.slots) < rows.lengths[:, None]))
    width = chunk.tokens.shape[1]
    ids, logprobs = jax.device_get(strategy.candidates(state.memory))
    next_logits, segment = end(model, past, state, slots=width)
    return chunk, ChunkResult(
        model,
        text.repeat(len(chunk)),
        chunk,
        scores=rows.logprobs[:, :width],
        candidates=np.where(chunk.is_real[..., None], ids[:, :width], 0),
        candidate_probs=np.where(chunk.is_real[..., None], np.exp(logprobs[:, :width]), 0),
        next_logits=next_logits,
        segment=segment,
        finish_reasons=tuple(REASONS[finish] for finish in rows.finish),
    )


def _check(model: GPTNeoX, before: Chunk, chunk: Chunk) -> None:
    vocab_size, context = model.config.vocab_size, model.config.context_length
    lengths = before.lengths + chunk.lengths
    if lengths.min() < 1:
        row = int(lengths.argmin())
        raise InputError(f"row {row} has no tokens; begin it with the model's BOS token")
    if lengths.max() > context:
        raise InputError(f"a row has {lengths.max()} tokens, but the model has {context} positions")
    ids = chunk.tokens[chunk.is_real]
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if len(wrong):
        raise InputError(
            f"token id {wrong[0]} is not in the model's vocabulary of {vocab_size}; "
            "the tokenizer belongs to another model"
        )


def _sampler(
    model: GPTNeoX,
    sampling: Options | Sequence[Options],
    starts: Int[np.ndarray, " R"],
    sample_ids: Sequence[int],
    steps: int,
    vocabulary: Vocabulary,
) -> Sampler:
    """Chooses the tokens of rows that have `starts` tokens already."""
    check_number("steps", steps, int, 1)
    sampling = [sampling] * len(starts) if isinstance(sampling, Options) else sampling
    if len(sampling) != len(starts):
        raise InputError(f"there are {len(sampling)} options for {len(starts)} sample ids")
    rows, limits = [], []
    for own, start, sample in zip(sampling, starts.tolist(), sample_ids, strict=True):
        options = own.resolve({}) if isinstance(own, GenerationOptions) else own
        check_number("a sample id", sample, int, 0)
        options.check_ids(model.config.vocab_size)
        for name in ("num_samples", "num_beams"):
            if getattr(options, name) != 1:
                raise InputError(f"chunks take no {name}: give a sample id for each row")
        if options.stop_strings and not vocabulary.token_bytes:
            raise InputError(f"stop: {shown(options.stop_strings[0])} is a text; give token_bytes")
        most = min(steps, options.max_new_tokens or steps)
        options = dataclasses.replace(options, max_new_tokens=most)
        rows.append(options)
        limits.append(options.new_tokens(start, model.config.context_length))
    sampler = Sampler.of(rows, limits, vocabulary)
    return dataclasses.replace(sampler, sample=jnp.asarray(sample_ids, jnp.int32))


class _WithCandidates(Strategy):
    """Samples as `sampler` does, and keeps the `number` likeliest tokens under the model itself.

    Its memory is a Rows with `number` rows for each text, next to each other, one for each rank.
    """

    sampler: Sampler
    number: int = eqx.field(static=True)

    @property
    def num_rows(self) -> int:
        return self.sampler.num_rows

    def cache_rows(self, prompts: int) -> int:
        return self.num_rows

    def begin(self, prompts: int, slots: int) -> Rows:
        return Rows.empty(self.num_rows * self.number, slots)

    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: Rows
    ) -> Choice:
        best, tokens = lax.top_k(logits, self.number)
        logprobs = best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        memory = memory.add(tokens.reshape(-1), logprobs.reshape(-1))
        return self.sampler.choose(logits, history, rows, None)._replace(memory=memory)

    def candidates(self, memory: Rows) -> tuple[Int[Array, "R N K"], Float[Array, "R N K"]]:
        """The tokens, the likeliest first, and their log-probabilities."""
        shape = (self.num_rows, self.number, memory.slots)
        return memory.tokens.reshape(shape).mT, memory.logprobs.reshape(shape).mT

    def results(self, rows: Rows, memory: Rows) -> Results:
        return Results(rows)
