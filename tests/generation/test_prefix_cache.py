"""Texts that begin as others did are read from where they differ, with the same results."""

import dataclasses
import functools

import numpy as np
import pytest

from neox_eqx.errors import InputError
from neox_eqx.generation.chunks import prefix_cache
from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult
from neox_eqx.generation.chunks.prefix_cache import PrefixCache
from neox_eqx.generation.chunks.read_write import prefill
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.rope import RopeParameters
from tests.generation.completions import random_prompts
from tests.generation.stories import CONFIG, VOCAB, check, close
from tests.hf_models import pair

HF, MODEL = pair({**CONFIG, "num_hidden_layers": 1})
PREAMBLE, *ENDS = random_prompts(VOCAB, (9, 3, 4, 2), seed=3)
OTHER = tuple(token + 1 for token in PREAMBLE)
PLENTY = 2**30


@functools.cache
def text(*parts: tuple[int, ...]) -> ChunkResult:
    """One text, read without any cache."""
    return prefill(MODEL, [], Chunk.of([sum(parts, ())]))


def read(cache: PrefixCache, *parts: tuple[int, ...]) -> int:
    """Reads one text, and tells how many tokens were not read again."""
    before = cache.tokens_saved
    close(cache.prefill(text(*parts).chunk), text(*parts))
    return cache.tokens_saved - before


def test_a_text_is_read_from_where_it_differs_from_those_before() -> None:
    """The last token that is the same is read again, for what it says of the next."""
    cache = PrefixCache(MODEL, PLENTY)
    assert read(cache, PREAMBLE, ENDS[0]) == 0
    assert read(cache, OTHER, ENDS[0]) == 0
    assert read(cache, PREAMBLE, ENDS[1]) == len(PREAMBLE) - 1
    assert read(cache, PREAMBLE) == len(PREAMBLE) - 1
    assert read(cache, PREAMBLE, ENDS[1], ENDS[2]) == len(PREAMBLE + ENDS[1]) - 1
    assert read(cache, PREAMBLE, ENDS[0]) == len(PREAMBLE + ENDS[0]) - 1
    assert (cache.lookups, cache.hits) == (6, 4)


def test_rows_of_a_batch_are_found_each_for_itself() -> None:
    cache = PrefixCache(MODEL, PLENTY)
    read(cache, PREAMBLE, ENDS[0])
    chunk = Chunk.of([PREAMBLE + ENDS[1], OTHER, PREAMBLE + ENDS[0]])
    result = cache.prefill(chunk)
    close(result, prefill(MODEL, [], chunk))
    check(HF, result)
    assert cache.tokens_saved == len(PREAMBLE) - 1 + len(PREAMBLE + ENDS[0]) - 1
    assert len(cache) == 3


def test_a_conversation_goes_on_from_its_last_answer() -> None:
    cache = PrefixCache(MODEL, PLENTY)
    prompt = cache.prefill(text(PREAMBLE).chunk)
    answer = prefill(MODEL, [prompt], Chunk.of([ENDS[1]]))
    some = np.zeros((*answer.scores.shape, 2), np.int32)
    answer = dataclasses.replace(answer, candidates=some, candidate_probs=some.astype(np.float32))
    cache.add([prompt, answer])
    assert len(cache) == 1  # the longer text has the shorter one in it
    assert read(cache, PREAMBLE, ENDS[1], ENDS[0]) == len(PREAMBLE + ENDS[1]) - 1


def test_what_was_of_no_use_for_longest_goes_first() -> None:
    size = text(PREAMBLE, ENDS[0]).nbytes
    cache = PrefixCache(MODEL, 2 * size)
    for end in ENDS[:2]:
        read(cache, OTHER[:2], end)
    assert cache.nbytes == 2 * size
    assert read(cache, OTHER[:2], ENDS[0]) == 4
    read(cache, PREAMBLE)
    assert cache.nbytes == 2 * size and len(cache) == 2
    assert cache.nbytes == sum(entry.result.nbytes for entry in cache._entries.values())
    assert read(cache, OTHER[:2], ENDS[0]) == 4
    assert read(cache, OTHER[:2], ENDS[1]) == 1  # what it shares with a text that is still there
    small = PrefixCache(MODEL, size - 1)
    assert read(small, PREAMBLE) == read(small, PREAMBLE) == len(small) == 0


def test_a_row_that_never_fits_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    long = text(PREAMBLE, ENDS[0])
    cache = PrefixCache(MODEL, long.nbytes - 1)
    monkeypatch.delattr(ChunkResult, "take")
    cache.add([long])
    assert len(cache) == cache.nbytes == 0
    with pytest.raises(AttributeError):  # control
        PrefixCache(MODEL, long.nbytes).add([long])


def test_a_text_that_is_refused_is_not_counted() -> None:
    cache = PrefixCache(MODEL, PLENTY)
    read(cache, PREAMBLE)
    before = (cache.lookups, cache.hits, cache.tokens_saved)
    with pytest.raises(InputError, match="token id 96 is not in the model's vocabulary"):
        cache.prefill(Chunk.of([(*PREAMBLE, VOCAB)]))
    assert (cache.lookups, cache.hits, cache.tokens_saved) == before


def test_equal_digests_of_other_texts_are_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(tokens: tuple[int, ...]) -> tuple[bytes, ...]:
        return tuple(bytes([length]) for length in range(len(tokens)))

    monkeypatch.setattr(prefix_cache, "_digests", weak)
    cache = PrefixCache(MODEL, PLENTY)
    assert read(cache, PREAMBLE) == read(cache, OTHER) == cache.hits == 0


def test_a_prefix_that_is_not_the_same_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the hash of a token alone, whatever stands before it, finds wrong keys."""

    def of_token(tokens: tuple[int, ...]) -> tuple[bytes, ...]:
        return tuple(bytes([token]) for token in tokens)

    monkeypatch.setattr(prefix_cache, "_digests", of_token)
    monkeypatch.setattr(prefix_cache._Entry, "begins_as", lambda *_: True)
    cache = PrefixCache(MODEL, PLENTY)
    read(cache, PREAMBLE)
    other = OTHER[:-1] + PREAMBLE[-1:]
    with pytest.raises(AssertionError):
        read(cache, other, ENDS[0])


def test_keys_that_depend_on_the_length_of_their_text_are_not_kept() -> None:
    rope = RopeParameters(rope_type="dynamic", factor=2.0, partial_rotary_factor=1.0)
    config = dataclasses.replace(
        MODEL.config, rope_parameters=rope, max_position_embeddings=len(PREAMBLE)
    )
    cache = PrefixCache(dataclasses.replace(MODEL, config=config), PLENTY)
    for row in (PREAMBLE + ENDS[0], PREAMBLE, PREAMBLE + ENDS[0]):
        cache.prefill(Chunk.of([row]))
    assert cache.tokens_saved == 0 and len(cache) == 1


def test_what_belongs_to_another_text_or_model_is_not_kept() -> None:
    cache = PrefixCache(MODEL, PLENTY)
    end = prefill(MODEL, [text(PREAMBLE)], Chunk.of([ENDS[0]]))
    with pytest.raises(InputError, match="does not begin the text"):
        cache.add([end])
    foreign = dataclasses.replace(text(PREAMBLE), model=GPTNeoX(**{**vars(MODEL), "layout": "2d"}))
    with pytest.raises(InputError, match="what is to be kept is of another model"):
        cache.add([foreign])
