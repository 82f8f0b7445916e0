"""Keys and values in 8 bits: the tokens of floats that were rounded so, in every way of reading."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import InputError
from neox_eqx.model.heads import side_by_side
from neox_eqx.model.int8_cache import Int8KV
from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import Request, Row, ours, random_prompts, request, tokens
from tests.hf_models import family, stack_layers


class RoundedKV(KV):
    """The oracle: floats, of the values that 8 bits with a scale a head and slot leave."""

    @classmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "RoundedKV":
        return cls(*(side_by_side(rounded(x), together) for x in (key, value)))


def rounded(x: Array) -> Array:
    scale = jnp.maximum(abs(x).max(-1, keepdims=True) / 127, 1e-30)
    return (x / scale).round() * scale


def kept_by(model: GPTNeoX, cache: type[KeysValues], together: int = 1) -> GPTNeoX:
    return dataclasses.replace(model, cache=cache, heads_together=together)


def requests(**options: int) -> list[Request]:
    prompts = random_prompts(80, [3, 9, 1, 6])
    return [request(prompt, **{"max_new_tokens": 40, **options}) for prompt in prompts]


def apart(rows: list[Row], others: list[Row]) -> float:
    pairs = zip(rows, others, strict=True)
    return max(np.abs(np.subtract(one.logprobs, other.logprobs)).max() for one, other in pairs)


@pytest.mark.typed
@pytest.mark.parametrize(("stacked", "together"), [(False, 1), (True, 2)])
def test_rows_have_the_tokens_of_the_rounded_floats(stacked: bool, together: int) -> None:
    model = stack_layers(family("redpajama-3b")[1]) if stacked else family("redpajama-3b")[1]
    expected = ours(kept_by(model, RoundedKV, together), requests())
    actual = ours(kept_by(model, Int8KV, together), requests())
    assert tokens(actual) == tokens(expected)
    # Measured 2e-6; what rounding changes is a thousand times as much.
    assert apart(actual, expected) < 1e-5
    assert apart(actual, ours(model, requests())) > 1e-3


def test_samples_and_beams_share_the_scales_of_their_prompt() -> None:
    model = family("redpajama-3b")[1]
    searches = requests(max_new_tokens=12, num_beams=3, num_return_sequences=2)
    expected = tokens(ours(kept_by(model, RoundedKV), searches))
    assert tokens(ours(kept_by(model, Int8KV), searches)) == expected


def test_a_checkpoint_is_loaded_with_it_onto_a_mesh(tmp_path: Path) -> None:
    theirs, _ = family("pythia-70m")
    theirs.save_pretrained(tmp_path / "model")
    alone = load(tmp_path / "model", cache_bits=8)
    sharded = load(tmp_path / "model", cache_bits=8, mesh="data=2,model=4")
    assert alone.cache is sharded.cache is Int8KV
    assert tokens(ours(sharded, requests())) == tokens(ours(alone, requests()))
    # Two layers, four heads of 16 numbers and a scale, for keys and for values.
    assert alone.slot_bytes == 2 * 4 * (16 + 4) * 2
    with pytest.raises(InputError, match="cache_bits 4 is not supported; it is 8, or left out"):
        load(tmp_path / "model", cache_bits=4)


def test_a_key_far_from_the_others_of_its_slot_keeps_those_of_other_heads() -> None:
    key = jnp.ones((1, 2, 1, 4)).at[0, 0, 0, 0].set(1e4)
    kept = Int8KV.of(key, key, 2)
    query = jnp.eye(4)[None, None].repeat(2, 1)
    # The second head has a scale of its own: ones stay ones.
    np.testing.assert_allclose(kept.scores(query)[0, 1, :, 0], 1, rtol=1e-6)
    assert all(leaf.shape[:3] == (1, 1, 1) for leaf in jax.tree.leaves(kept))
