"""A text may be read and written in chunks that share what stands before them."""

import dataclasses
import doctest
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from neox_eqx import token_bytes
from neox_eqx.checkpoint.load import load
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.chunks import chunk as chunk_module
from neox_eqx.generation.chunks import prefix_cache
from neox_eqx.generation.chunks import read_write as chunks_module
from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult
from neox_eqx.generation.chunks.read_write import generate, prefill
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.mesh import make_mesh
from tests.generation.completions import ours
from tests.generation.stories import (
    CANDIDATES,
    CONFIG,
    EOS,
    GREEDY,
    MIXED,
    WARM,
    check,
    close,
    random_chunk,
    story,
    written,
)
from tests.generation.test_compiled import compilations
from tests.hf_models import pair, stack_layers
from tests.text.checkpoints import BOS, byte_level

HF, MODEL = pair(CONFIG)


@pytest.fixture(scope="module")
def chunks() -> list[ChunkResult]:
    return story(MODEL)


def test_chunks_of_shared_rows_equal_whole_texts(chunks: list[ChunkResult]) -> None:
    assert [len(chunk) for chunk in chunks] == [1, 3, 6, 6]
    lengths = chunks[2].chunk.lengths
    assert 1 <= lengths.min() < lengths.max() == 12  # some end early, and others do not
    assert set(chunks[2].finish_reasons) == {"eos", "length"}
    check(HF, ChunkResult.join(chunks))


def test_shared_keys_are_there_once(chunks: list[ChunkResult]) -> None:
    rows = [{len(kv) for kv in jax.tree.leaves(chunk.segment.kv)} for chunk in chunks]
    assert rows == [{1}, {3}, {6}, {6}]


def test_a_chunk_may_be_read_without_scores(chunks: list[ChunkResult]) -> None:
    prompt, tasks = chunks[:2]
    plain = prefill(MODEL, [prompt], tasks.chunk, scores=False)
    np.testing.assert_array_equal(np.isnan(plain.scores), plain.chunk.is_real)
    np.testing.assert_array_equal(plain.next_logits, tasks.next_logits)
    assert {plain.scores.dtype, tasks.scores.dtype} == {np.dtype(np.float32)}


@pytest.mark.typed
def test_candidates_of_a_place_without_a_text_before_it_are_no_tokens(
    chunks: list[ChunkResult],
) -> None:
    first, second = prefill(MODEL, [], random_chunk(3, 2), candidates=CANDIDATES), chunks[1]
    is_first = np.arange(first.chunk.tokens.shape[1]) == 0
    for unknown in (np.isnan(first.candidate_probs), first.candidates == -1):
        np.testing.assert_array_equal(unknown.all(-1), np.tile(is_first, (2, 1)))
    assert second.candidates.min() == 0 and not np.isnan(second.candidate_probs).any()


def test_the_size_of_a_row_is_known_before_it_is_taken(chunks: list[ChunkResult]) -> None:
    for result in chunks:
        for row in range(len(result)):
            assert result.nbytes_of(row) == result.take([row]).nbytes


@pytest.mark.typed
def test_joined_chunks_stand_before_others_as_they_did_apart(chunks: list[ChunkResult]) -> None:
    joined = ChunkResult.join(chunks[:3])
    more = prefill(MODEL, [joined], chunks[3].chunk, candidates=CANDIDATES)
    close(more, chunks[3])
    # Row 3 alone, in a batch where others stand beside it, and in one that was put together.
    rows = [joined.take([3]), joined.take([0, 5])]
    close(ChunkResult.stack(rows), joined.take([3, 0, 5]))
    check(HF, ChunkResult.stack(rows))
    cut = joined.cut(4)
    assert cut.chunk.rows == [row[:4] for row in joined.chunk.rows]
    assert np.isnan(cut.next_logits).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_split_of_a_text_gives_the_same(seed: int) -> None:
    """Scores, and what is written after it, by the engine of whole prompts."""
    random = np.random.default_rng(seed)
    shared = int(random.integers(8, 17))
    own = [24 - shared, *random.integers(0, 24 - shared, 2).tolist()]
    chunks = [prefill(MODEL, [], random_chunk(shared, seed=seed), candidates=CANDIDATES)]
    ends = random_chunk(*own, seed=seed + 10)
    chunks.append(prefill(MODEL, chunks, ends, candidates=CANDIDATES))
    whole = ChunkResult.join(chunks)
    check(HF, whole)
    requests = [
        Request(row, dataclasses.replace(options.resolve({}), num_samples=2, max_new_tokens=12))
        for row, options in zip(whole.chunk.rows, MIXED[::2], strict=True)
    ]
    expected = [row.tokens for row in ours(MODEL, requests, EOS)]
    assert written(MODEL, chunks).chunk.rows == expected


def test_a_sample_depends_on_its_number_alone(chunks: list[ChunkResult]) -> None:
    rows = chunks[2].chunk.rows
    swapped = written(MODEL, chunks[:2], [1, 0] * 3)
    assert swapped.chunk.rows == [rows[row] for row in (1, 0, 3, 2, 5, 4)]
    assert len(set(rows)) == 5  # two are greedy


@pytest.mark.typed
def test_each_row_has_its_own_options(chunks: list[ChunkResult]) -> None:
    rows = chunks[2].chunk.rows
    row = next(number for number in range(1, 6) if len(rows[number]) > 4)
    own = MIXED.copy()
    own[0] = dataclasses.replace(own[0], max_new_tokens=1)
    own[row] = dataclasses.replace(own[row], stop=(rows[row][1:3],))
    ended, result = generate(MODEL, own, chunks[:2], [0, 1] * 3, 12, eos=EOS)
    lengths = {0: 1, row: 3}
    assert ended.rows == [tokens[: lengths.get(place)] for place, tokens in enumerate(rows)]
    assert result.finish_reasons[row] == "stop"


def test_a_row_ends_at_a_text_that_its_tokens_spell(chunks: list[ChunkResult]) -> None:
    tokenizer = byte_level()
    (row,) = generate(MODEL, WARM, chunks[:1], [0], 12, eos=())[0].rows
    text = tokenizer.decode(row[3:5])
    assert text.isascii() and text not in tokenizer.decode(row[:4])
    stops = dataclasses.replace(WARM, stop=(text,))
    ended, result = generate(
        MODEL, stops, chunks[:1], [0], 12, eos=(), token_bytes=token_bytes(tokenizer)
    )
    assert ended.rows == [row[:5]] and result.finish_reasons == ("stop",)


def test_a_mesh_gives_what_one_device_does(chunks: list[ChunkResult], tmp_path: Path) -> None:
    HF.save_pretrained(tmp_path)
    sharded = load(tmp_path, mesh="data=2,model=2", stacked=True)
    for one, many in zip(chunks, story(sharded), strict=True):
        close(many, one)
        assert many.finish_reasons == one.finish_reasons


def test_a_conversation_compiles_nothing_until_it_meets_a_new_bucket() -> None:
    hf, model = pair({**CONFIG, "num_hidden_layers": 1})

    def turn(said: list[ChunkResult], length: int) -> list[ChunkResult]:
        heard = prefill(model, said, random_chunk(length, seed=length))
        _, spoken = generate(model, GREEDY, [*said, heard], [0], 3, eos=())
        return [ChunkResult.join([*said, heard, spoken])]

    said = turn(turn([], 30), 2)
    with compilations() as seen:
        said = turn(turn(said, 1), 3)
    assert not seen and said[0].chunk.lengths == 48
    with compilations() as seen:  # control
        said = turn(said, 4)
    assert seen
    check(hf, said[0])


def forgetful(result: ChunkResult, seen: np.ndarray) -> ChunkResult:
    segment = Segment(result.segment.kv, jnp.asarray(seen))
    return dataclasses.replace(result, segment=segment)


def test_forgetting_the_keys_of_the_last_tokens_would_be_noticed(
    chunks: list[ChunkResult],
) -> None:
    """Controls: so would be keys of what the loop wrote after a row's end."""
    real = chunks[2].chunk.is_real
    last = np.arange(real.shape[1]) == chunks[2].chunk.lengths[:, None] - 1
    for seen in (real & ~last, np.broadcast_to(real.any(0), real.shape)):
        before = [*chunks[:2], forgetful(chunks[2], seen)]
        more = prefill(MODEL, before, chunks[3].chunk, candidates=CANDIDATES)
        with pytest.raises(AssertionError):
            close(more, chunks[3])


def test_tokens_and_texts() -> None:
    tokenizer = byte_level()
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, bos)])
    begins = Chunk.tokenize(tokenizer, ["Two cats"])
    goes_on = Chunk.tokenize(tokenizer, [" and three dogs", ""], continues=True)
    assert [row[0] for row in begins.rows] == [bos] and goes_on.lengths[1] == 0
    joined = Chunk.join([begins, goes_on])
    assert joined.texts(tokenizer) == ["Two cats and three dogs", "Two cats"]
    assert joined.take([1, 1]).rows == [begins.rows[0]] * 2
    assert joined.tokens.shape[1] == bucket(int(joined.lengths.max()))


OTHERS = {
    "its dtype is bfloat16": lambda: jax.tree.map(lambda x: x.astype(jnp.bfloat16), MODEL),
    "its parameters are not": lambda: jax.tree.map(lambda x: x + 0, MODEL),
    "its num_heads is 8": lambda: eqx.filter_eval_shape(
        GPTNeoX.init, MODEL.config, heads=8, key=jax.random.key(0)
    ),
    "its stacked is True": lambda: stack_layers(MODEL),
    "its config is another": lambda: dataclasses.replace(
        MODEL, config=dataclasses.replace(MODEL.config, layer_norm_eps=1e-4)
    ),
    "its mesh is Mesh('data': 2": lambda: dataclasses.replace(
        MODEL, mesh=make_mesh(MODEL.config, "data=2,model=2")
    ),
}


@pytest.mark.parametrize("message", OTHERS)
def test_a_prefix_of_another_model_is_refused(chunks: list[ChunkResult], message: str) -> None:
    foreign = dataclasses.replace(chunks[0], model=OTHERS[message]())
    with refused(f"chunk 1 of 1 is of another model: {message}"):
        prefill(MODEL, [foreign], random_chunk(3))
    with refused("result 2 of 2 is of another model"):
        ChunkResult.stack([chunks[0], foreign])


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        yield
    assert "\n" not in str(error.value)


def test_prefixes_that_do_not_belong_here_are_refused(chunks: list[ChunkResult]) -> None:
    prompt, tasks, samples = chunks[:3]
    chunk = random_chunk(*[2] * 6)
    for wrong in ([tasks], [prompt, samples], [prompt, prompt], [prompt, tasks.take([1, 0, 2])]):
        with refused("was not read after the text"):
            prefill(MODEL, [*wrong, samples], chunk)
    with refused("3 rows cannot stand before 4"):
        prefill(MODEL, [prompt, tasks], random_chunk(1, 1, 1, 1))
    with refused("6 rows cannot stand before 3"):
        prefill(MODEL, chunks[:3], random_chunk(1, 1, 1))
    none = dict(
        candidates=tasks.candidates[..., :0], candidate_probs=tasks.candidate_probs[..., :0]
    )
    with refused("do not join: they have 3, 0 candidates"):
        ChunkResult.join([prompt, dataclasses.replace(tasks, **none)])


def test_wrong_chunks_and_options_are_refused(chunks: list[ChunkResult]) -> None:
    def write(options: Any = GREEDY, samples: Any = (0,), steps: int = 3) -> None:
        generate(MODEL, options, chunks[:1], samples, steps)

    with refused("row 1 has no tokens"):
        prefill(MODEL, [], random_chunk(3, 0))
    with refused("token id 96 is not in the model's vocabulary of 96"):
        prefill(MODEL, [], Chunk.of([[5, 96]]))
    with refused("a row has 161 tokens, but the model has 160 positions"):
        prefill(MODEL, chunks[:1], random_chunk(148))
    with refused("at least one row"):
        Chunk.of([])
    with refused("must be a list of texts"):
        Chunk.tokenize(byte_level(), "one text")
    with refused("is not valid Unicode"):
        Chunk.tokenize(byte_level(), ["\ud800"])
    with refused("needs a text to go on from"):
        generate(MODEL, GREEDY, [], [0], 3)
    with refused("there are 2 options for 1 sample ids"):
        write([GREEDY, GREEDY])
    with refused("a sample id must be a whole number"):
        write(samples=[-1])
    with refused("3 rows cannot stand before 4"):
        generate(MODEL, GREEDY, chunks[:2], range(4), 3)
    with refused("1 rows cannot stand before 0"):
        write(samples=[])
    with refused("candidates must be a whole number from 0 to 96"):
        prefill(MODEL, [], random_chunk(3), candidates=97)
    with refused("3 candidates need the scores; leave scores=False out"):
        prefill(MODEL, [], random_chunk(3), candidates=3, scores=False)
    with refused("steps must be a whole number of at least 1"):
        write(steps=0)
    with refused("chunks take no num_samples"):
        write(dataclasses.replace(GREEDY, num_samples=2))
    with refused("chunks take no num_beams"):
        write(dataclasses.replace(GREEDY, num_beams=2))
    with refused("'x' is a text"):
        write(dataclasses.replace(GREEDY, stop=("x",)))
    with refused("suppress_tokens: token id 96"):
        write(dataclasses.replace(GREEDY, suppress_tokens=(96,)))


def test_the_examples_of_docstrings() -> None:
    names = {"GPTNeoX": GPTNeoX, "GPTNeoXConfig": GPTNeoXConfig, "jax": jax, "Chunk": Chunk}
    for module in (chunk_module, chunks_module, prefix_cache):
        result = doctest.testmod(module, extraglobs=names)
        assert result.attempted and not result.failed
