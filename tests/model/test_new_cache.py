"""A way to keep keys and values that nothing else knows: what is written here is all it takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Float32, Int8

from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.read_write import generate, prefill
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.model.heads import side_by_side
from neox_eqx.model.keys_values import KV, KeysValues, mix, scores
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import Request, Row, ours, random_prompts, request, tokens
from tests.hf_models import family, stack_layers

NAME = "redpajama-3b"


def rounded(x: Array) -> tuple[Array, Array]:
    scale = (abs(x).max(-1, keepdims=True) / 127).clip(1e-30)
    return (x / scale).round().astype(jnp.int8), scale


class Int8KV(KeysValues):
    """8 bits, with a scale for each slot of each group of heads."""

    key: Int8[Array, "*L B G S C"]
    key_scale: Float32[Array, "*L B G S 1"]
    value: Int8[Array, "*L B G S C"]
    value_scale: Float32[Array, "*L B G S 1"]

    @classmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "Int8KV":
        return cls(*rounded(side_by_side(key, together)), *rounded(side_by_side(value, together)))

    def scores(self, query: Float[Array, "B H T K"]) -> Float[Array, "B H T S"]:
        return scores(query, self.key.astype(query.dtype) * self.key_scale)

    def mix(self, weights: Float[Array, "B H T S"], size: int) -> Float32[Array, "B H T K"]:
        return mix(weights, self.value.astype(weights.dtype) * self.value_scale, size)


class RoundedKV(KV):
    """The oracle: floats, of the values that 8 bits leave."""

    @classmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "RoundedKV":
        pair = (side_by_side(x, together) for x in (key, value))
        return cls(*(numbers.astype(scale.dtype) * scale for numbers, scale in map(rounded, pair)))


def requests() -> list[Request]:
    """Of different lengths, and longer than the first slots of the cache."""
    prompts = random_prompts(80, [3, 9, 1, 6])
    return [request(prompt, max_new_tokens=80) for prompt in prompts]


def kept_by(model: GPTNeoX, cache: type[KeysValues], together: int = 1) -> GPTNeoX:
    return dataclasses.replace(model, cache=cache, heads_together=together)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("stacked", [False, True])
def test_rows_have_the_tokens_of_the_rounded_floats(stacked: bool, together: int) -> None:
    model = stack_layers(family(NAME)[1]) if stacked else family(NAME)[1]
    expected = ours(kept_by(model, RoundedKV, together), requests())
    actual = ours(kept_by(model, Int8KV, together), requests())
    assert tokens(actual) == tokens(expected)
    # Measured 2e-6; what rounding changes is a thousand times as much.
    assert apart(actual, expected) < 1e-5
    assert apart(actual, ours(model, requests())) > 1e-3


def apart(rows: list[Row], others: list[Row]) -> float:
    pairs = zip(rows, others, strict=True)
    return max(np.abs(np.subtract(one.logprobs, other.logprobs)).max() for one, other in pairs)


def test_beams_share_it() -> None:
    model = family(NAME)[1]
    searches = [request([5, 6, 7], max_new_tokens=12, num_beams=3, num_return_sequences=2)]
    expected = tokens(ours(kept_by(model, RoundedKV), searches))
    assert tokens(ours(kept_by(model, Int8KV), searches)) == expected


def test_chunks_are_read_and_written_with_it() -> None:
    model = family(NAME)[1]
    texts = []
    for cache in (Int8KV, RoundedKV):
        kept = kept_by(model, cache)
        start = prefill(kept, [], Chunk.of([[5, 6, 7, 8]]))
        tasks = prefill(kept, [start], Chunk.of([[9, 1, 2], [3]])).take([1, 0])
        written, result = generate(kept, GenerationOptions(), [start, tasks], [0, 1], 6, eos=())
        texts.append((written.rows, np.asarray(result.scores)))
    assert texts[0][0] == texts[1][0]
    np.testing.assert_allclose(texts[0][1], texts[1][1], atol=1e-5)


def test_a_token_takes_the_bytes_that_are_counted() -> None:
    model = family(NAME)[1]
    heads, size = model.num_heads, model.config.head_dim
    assert model.slot_bytes == 2 * 2 * heads * size * 4
    assert kept_by(model, Int8KV).slot_bytes == 2 * 2 * heads * (size + 4)
    segment = kept_by(model, Int8KV).empty_segment(3, 5)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(segment.kv))
    assert held == 3 * 5 * kept_by(model, Int8KV).slot_bytes
