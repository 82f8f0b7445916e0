"""A row whose logits are no numbers ends alone: the others are, bit by bit, as without it."""

import dataclasses
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult
from neox_eqx.generation.chunks.kept_text import KeptText
from neox_eqx.generation.chunks.prefix_cache import PrefixCache
from neox_eqx.generation.chunks.read_write import generate, prefill
from neox_eqx.generation.decoding.not_a_number import not_numbers
from neox_eqx.generation.decoding.run import Row
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.sharding.rules import parameter_shardings
from tests.generation.completions import ENDLESS, ours, random_prompts, request, tokens
from tests.generation.stories import CONFIG, VOCAB
from tests.hf_models import pair

_, MODEL = pair({**CONFIG, "num_hidden_layers": 1})
NEW = 8
BAD = 7
"""The token that is read as NaN, where it need not be one that the model writes."""
WARM = GenerationOptions(temperature=1.0, seed=1, suppress_tokens=(BAD,))
FIRST, SECOND, OTHER = random_prompts(VOCAB, (9, 3, 5), seed=7)
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": dict(temperature=1.5, top_p=0.9, seed=3, num_samples=2),
    "beams": dict(num_beams=3, num_return_sequences=2),
}


def with_bad(token: int, model: GPTNeoX = MODEL) -> GPTNeoX:
    """The model with NaN for what a token is read as."""
    weight = model.embed_in.weight.at[token].set(jnp.nan)
    return eqx.tree_at(lambda m: m.embed_in.weight, model, weight)


def on_mesh(model: GPTNeoX) -> GPTNeoX:
    place = make_mesh(model.config, "data=2,model=2")
    spread = jax.device_put(model, parameter_shardings(model, place))
    return GPTNeoX(**{**vars(spread), "mesh": place})


def assert_failed(row: Row, token: int) -> None:
    assert row.finish_reason == "error" and row.error is not None
    assert f"the model's logits for token {token} of the completion are NaN" in row.error


@pytest.mark.parametrize(
    ("way", "size"),
    [
        pytest.param("greedy", 8, marks=pytest.mark.slow),
        ("sampled", 4),
        ("beams", 4),
        pytest.param("greedy on a mesh", 4, marks=pytest.mark.slow),
    ],
)
def test_a_row_that_fails_changes_no_other(way: str, size: int) -> None:
    """The first fails at its prompt, and the second at a token that it wrote."""
    own = dict(WAYS[way.split()[0]], max_new_tokens=NEW)
    model = on_mesh(MODEL) if "mesh" in way else MODEL
    prompts = [FIRST, SECOND, *random_prompts(VOCAB, range(3, size + 1), seed=8)]
    before = ours(model, [request(prompt, suppress_tokens=(0,), **own) for prompt in prompts])
    each = len(before) // len(prompts)
    bad = before[each].tokens[2]

    asked = []
    for prompt in prompts[:size]:
        spared = tuple(token if token != bad else 0 for token in prompt)
        asked.append(request(spared, suppress_tokens=(bad,), **own))
    asked[0] = dataclasses.replace(asked[0], tokens=(*asked[0].tokens[:-1], bad))
    asked[1] = request(asked[1].tokens, suppress_tokens=(0,), **own)
    expected = ours(model, asked)
    rows = ours(with_bad(bad, model), asked)
    for row in rows[:each]:
        assert_failed(row, token=1)
        assert row.tokens == () and row.score is None
    for row, whole in zip(rows[each : 2 * each], expected[each:], strict=False):
        check_written(row, whole, bad, of_search=way == "beams")
    assert "error" in {row.finish_reason for row in rows[each : 2 * each]}
    assert rows[2 * each :] == expected[2 * each :]


def check_written(row: Row, whole: Row, bad: int, *, of_search: bool) -> None:
    """What it has is what the whole has up to the bad token; a search that met it has nothing."""
    if of_search:
        assert row.finish_reason == "error" and row.tokens == ()
    elif bad in whole.tokens[:-1]:
        length = whole.tokens.index(bad) + 1
        assert_failed(row, token=length + 1)
        assert (row.tokens, row.logprobs) == (whole.tokens[:length], whole.logprobs[:length])
    else:
        assert row == whole


def story(model: GPTNeoX) -> tuple[list[ChunkResult], ChunkResult]:
    """Three texts in four chunks, the third of them written, of which two are joined before."""
    first = prefill(model, [], Chunk.of([(BAD, 1, 3), (4, 5, 6), (8,)]))
    second = prefill(model, [first], Chunk.of([(9,), (10, 11), (12,)]))
    joined = ChunkResult.join([first, second])
    _, third = generate(model, WARM, [joined], [0] * 3, 5, eos=())
    fourth = prefill(model, [joined, third], Chunk.of([(1,), (2,), (3,)]))
    return [first, second, third, fourth], joined


def test_a_chunk_of_which_a_row_fails_is_the_same_in_its_others() -> None:
    """Padding copies a slot that is no one's: it must not be that of the row that failed."""
    expected, _ = story(MODEL)
    chunks, joined = story(with_bad(BAD))
    for number, (chunk, other) in enumerate(zip(chunks, expected, strict=True)):
        assert chunk.finish_reasons == ("error", *other.finish_reasons[1:])
        assert np.array_equal(chunk.scores[1:], other.scores[1:], equal_nan=True)
        assert chunk.chunk.rows[1:] == other.chunk.rows[1:]
        if number != 2:  # what NaN says a token is impossible, and the first is said by nothing
            own = chunk.scores[0, : chunk.chunk.lengths[0]]
            assert np.isnan(own[0]) == (number == 0) and (own[number == 0 :] == -np.inf).all()
    assert joined.finish_reasons[0] == "error" and chunks[2].chunk.rows[0] == ()


def test_what_the_loop_makes_of_a_row_after_its_end_is_no_part_of_it() -> None:
    """It goes on with the batch, and meets a token that is NaN which no text has."""

    def scores_after(model: GPTNeoX, steps: int) -> tuple[ChunkResult, ChunkResult]:
        first = prefill(model, [], Chunk.of([(4, 1, 3), (4, 5, 6), (8,)]))
        options = [dataclasses.replace(WARM, max_new_tokens=most) for most in (steps, 5, 5)]
        _, second = generate(model, options, [first], [0] * 3, 5, eos=())
        return second, prefill(model, [first, second], Chunk.of([(1,), (2,), (3,)]))

    whole, _ = scores_after(MODEL, 5)
    bad = whole.chunk.rows[0][3]
    assert bad not in (4, 1, 3, *whole.chunk.rows[0][:2])
    (written, after), (_, expected) = scores_after(with_bad(bad), 2), scores_after(MODEL, 2)
    assert written.finish_reasons[0] == "length" and after.finish_reasons[0] is None
    assert np.isfinite(written.next_logits[0]).all()
    assert after.scores[0, 0] == expected.scores[0, 0]


@pytest.mark.slow
def test_a_cache_of_prefixes_keeps_no_row_that_failed() -> None:
    cache = PrefixCache(with_bad(BAD), 2**30)
    result = cache.prefill(Chunk.of([(BAD, 1, 2, 3), (4, 5, 6)]))
    assert result.finish_reasons == ("error", None) and len(cache) == 1
    # Both are read together with what is known of either, which is padded to one width.
    again = cache.prefill(Chunk.of([(BAD, 1, 2, 3), (4, 5, 6, 8)]))
    whole = prefill(MODEL, [], Chunk.of([(0, 1, 2, 3), (4, 5, 6, 8)]))
    assert again.finish_reasons == ("error", None) and cache.hits == 1
    np.testing.assert_allclose(again.scores[1, 1:4], whole.scores[1, 1:4], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_conversation_goes_on_after_an_answer_that_failed() -> None:
    asked = request(FIRST, max_new_tokens=NEW, suppress_tokens=(0,))
    *_, row = KeptText(MODEL).answer(asked, Vocabulary((ENDLESS,)))
    bad = row.tokens[-1]
    first = tuple(token if token != bad else 0 for token in FIRST)
    asked = dataclasses.replace(asked, tokens=first)
    expected, kept = KeptText(MODEL), KeptText(with_bad(bad))
    *_, whole = expected.answer(asked, Vocabulary((bad,)))
    *_, row = kept.answer(asked, Vocabulary((bad,)))
    assert row == whole and row.tokens[-1] == bad  # it ends with it, and nothing was read after
    *_, row = kept.answer(dataclasses.replace(asked, tokens=(*first, bad, 3)), Vocabulary((bad,)))
    assert_failed(row, token=1)
    # The token that is NaN is in what was kept, and no part of what comes next.
    again = dataclasses.replace(asked, tokens=(*first, *whole.tokens[:-1], 5))
    rows = [list(each.answer(again, Vocabulary((bad,))))[-1] for each in (kept, expected)]
    assert rows[0].finish_reason != "error"
    assert tokens(rows[:1]) == tokens(rows[1:])


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (jnp.float16, "float16 ends at 65504, or .*; try --dtype bfloat16 or float32$"),
        (jnp.bfloat16, "the checkpoint's weights hold NaN .* too large even for bfloat16$"),
        (jnp.float32, "the checkpoint's weights hold NaN .* too large even for float32$"),
    ],
)
def test_another_dtype_is_advised_where_it_would_differ(dtype: Any, advice: str) -> None:
    message = not_numbers("the text", jnp.dtype(dtype))
    assert re.match("the model's logits for the text are NaN or infinite: ", message)
    assert re.search(advice, message)


@pytest.mark.slow
def test_float16_that_overflows_in_one_row_ends_that_row() -> None:
    """A token is read as something so large that a layer overflows in float16, and only there."""
    large = eqx.tree_at(
        lambda m: m.embed_in.weight, MODEL, MODEL.embed_in.weight.at[BAD].multiply(1e6)
    )
    half = jax.tree.map(lambda x: x.astype(jnp.float16), large)
    chunk = Chunk.of([(3, BAD), (3, 4)])
    assert prefill(half, [], chunk).finish_reasons == ("error", None)
    assert prefill(large, [], chunk).finish_reasons == (None, None)
