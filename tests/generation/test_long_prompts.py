"""Long texts are read in chunks: the numbers are those of the whole, and memory is a chunk's."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from transformers import GPTNeoXForCausalLM

from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.read_write import prefill
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.long import CHUNK, read_long
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from tests.generation.completions import ours, random_prompts, request, theirs, tokens
from tests.hf_models import config_json, hf_logits, pair, stack_layers

LENGTH = 2 * CHUNK + 100
# Measured: hidden states of the order of 1, 3e-6.
TOLERANCE = 1e-5


@functools.cache
def models(**own: Any) -> tuple[GPTNeoXForCausalLM, GPTNeoX]:
    return pair(config_json(32, 2, vocab_size=80, max_position_embeddings=8192, **own))


@functools.cache
def batch() -> tuple[jax.Array, jax.Array]:
    """Padding anywhere, and one row that ends in the first chunk."""
    random = np.random.default_rng(0)
    valid = random.random((2, LENGTH)) < 0.9
    valid[:, 0], valid[1, CHUNK // 3 :] = True, False
    return jnp.asarray(random.integers(0, 80, valid.shape)), jnp.asarray(valid)


@jax.jit
def whole(model: GPTNeoX, *arguments: Any) -> tuple[jax.Array, Segment]:
    return model(*arguments)


in_chunks = jax.jit(read_long)


@pytest.mark.parametrize("stacked", [False, True])
def test_chunks_give_the_hidden_states_and_the_segment_of_the_whole(stacked: bool) -> None:
    model = stack_layers(models()[1]) if stacked else models()[1]
    prefix = model(jnp.arange(7)[None], jnp.ones((1, 7), bool))[1]
    hidden, segment = in_chunks(model, *batch(), (prefix,))
    expected, expected_segment = whole(model, *batch(), (prefix,))
    valid = batch()[1]
    np.testing.assert_allclose(hidden[valid], expected[valid], atol=TOLERANCE)
    np.testing.assert_array_equal(segment.valid, expected_segment.valid)
    both = jax.tree.leaves(segment.kv), jax.tree.leaves(expected_segment.kv)
    for actual, kept in zip(*both, strict=True):
        real = jnp.broadcast_to(valid[:, None, :, None], actual.shape)
        np.testing.assert_allclose(actual[real], kept[real], atol=TOLERANCE)


def test_a_model_in_16_bits_gives_what_the_whole_has_in_its_dtype() -> None:
    model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), models()[1])
    hidden, segment = jax.eval_shape(in_chunks, model, *batch())
    assert hidden.dtype == segment.kv[0].key.dtype == jnp.bfloat16
    assert (hidden, segment) == jax.eval_shape(whole, model, *batch())


def test_long_prompts_go_on_as_with_transformers() -> None:
    """In a batch with short ones, which are padded to the same length."""
    hf, model = models()
    prompts = random_prompts(80, (LENGTH, 5))
    expected, sums = theirs(hf, prompts, 12)
    rows = ours(model, [request(prompt, max_new_tokens=12) for prompt in prompts])
    assert tokens(rows) == expected
    np.testing.assert_allclose([row.logprob for row in rows], sums, atol=1e-4)


@pytest.mark.typed
def test_scores_of_a_long_text_are_those_of_transformers() -> None:
    hf, model = models()
    (text,) = random_prompts(80, (LENGTH,))
    start = prefill(model, [], Chunk.of([text[:40]]))
    result = prefill(model, [start], Chunk.of([text[40:]]))
    ids = np.array(text)[None]
    expected = log_softmax(hf_logits(hf, ids, np.ones(ids.shape, bool))[0, :-1], axis=-1)
    expected = expected[np.arange(len(text) - 1), text[1:]]
    np.testing.assert_allclose(result.scores[0, : len(text) - 40], expected[39:], atol=2e-5)


def test_keys_that_turn_with_the_length_of_the_text_are_read_as_a_whole() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    _, model = pair(
        config_json(32, 2, vocab_size=80, max_position_embeddings=64, rope_parameters=scaling)
    )
    actual, expected = in_chunks(model, *batch())[0], whole(model, *batch())[0]
    np.testing.assert_array_equal(actual[batch()[1]], expected[batch()[1]])


def compiled(length: int) -> tuple[str, int]:
    """The program that reads a prompt, and the bytes that it needs beside arguments and result."""
    model = models()[1]
    shapes = [jax.ShapeDtypeStruct((1, length), dtype) for dtype in (jnp.int32, bool)]
    program = in_chunks.lower(model, *shapes).compile()
    return program.as_text(), program.memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_a_chunk_and_of_keys_and_values_written_in_place() -> None:
    program, needed = compiled(3 * CHUNK)
    _, of_one = compiled(CHUNK)
    of_token = models()[1].slot_bytes + 2 * 4 * 32  # and its hidden state, twice
    assert needed < 1.2 * of_one + 3 * CHUNK * of_token
    shape = rf"f32\[1,2,{3 * CHUNK},16\]"
    assert not re.findall(rf"^.*= {shape}\S* copy\((?!%broadcast).*$", program, re.MULTILINE)
    assert bucket(2 * CHUNK) == 2 * CHUNK  # so that prompts of any length are whole chunks
