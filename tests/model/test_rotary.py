"""Rotary frequencies and angles, against transformers' own tables."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.gpt_neox.modeling_gpt_neox import (
    GPTNeoXRotaryEmbedding,
    apply_rotary_pos_emb,
)

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.rotary import Rotary
from tests.hf_models import config_json, hf_config

# Measured: at most 2.5e-7, two roundings of float32. A theta of 10001 for 10000 makes 9e-5.
RELATIVE = 1e-6

_YARN = {"rope_type": "yarn", "factor": 4.0}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "default, all of the head": {"rotary_pct": 1.0},
    "default, half, other theta": {"rotary_pct": 0.5, "rotary_emb_base": 500000},
    "default, odd width": {"rotary_pct": 0.3},
    "default, one dim": {"rotary_pct": 0.04},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, odd width": {"rope_scaling": {"type": "linear", "factor": 3.0}, "rotary_pct": 0.3},
    "dynamic within the limit": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "yarn": {"rope_scaling": _YARN, "rotary_pct": 1.0},
    "yarn, quarter": {"rope_scaling": _YARN},
    "yarn, original length": {
        "rope_scaling": {**_YARN, "original_max_position_embeddings": 512},
        "rotary_pct": 1.0,
    },
    "yarn, top-level original length": {
        "rope_scaling": {**_YARN, "original_max_position_embeddings": 512},
        "original_max_position_embeddings": 1024,
        "rotary_pct": 1.0,
    },
    "yarn, attention factor": {"rope_scaling": {**_YARN, "attention_factor": 0.7}},
    "yarn, mscale": {"rope_scaling": {**_YARN, "mscale": 0.8, "mscale_all_dim": 1.3}},
    "yarn, one mscale is no mscale": {"rope_scaling": {**_YARN, "mscale": 0.8}},
    "yarn, not truncated": {"rope_scaling": {**_YARN, "truncate": False}, "rotary_pct": 1.0},
    "yarn, other betas": {
        "rope_scaling": {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0},
        "rotary_pct": 1.0,
    },
    "yarn, betas at one dim": {
        "rope_scaling": {**_YARN, "beta_fast": 1000.0, "beta_slow": 900.0},
        "rotary_pct": 1.0,
    },
    "yarn, factor one": {"rope_scaling": {**_YARN, "factor": 1.0}, "rotary_pct": 0.5},
    "llama3": {"rope_scaling": _LLAMA3, "rotary_pct": 1.0},
    "llama3, original length": {
        "rope_scaling": {**_LLAMA3, "original_max_position_embeddings": 256},
        "rotary_pct": 0.75,
    },
    "llama3, odd width": {"rope_scaling": {**_LLAMA3, "factor": 2.0}, "rotary_pct": 0.3},
}


def config(name: str) -> dict[str, Any]:
    """A model with heads of 32 and 2048 positions."""
    return config_json(64, 2, max_position_embeddings=2048, **CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    values = config(name)
    theirs = GPTNeoXRotaryEmbedding(hf_config(values))
    # Of position 1 the angle is the frequency: arctan2 gives it back, fast and slow alike.
    ours = Rotary.at(GPTNeoXConfig.from_hf(values), jnp.array([[1]]), jnp.array([2]))
    frequencies = theirs.inv_freq.numpy()
    width = len(frequencies)
    assert ours.cos.shape == ours.sin.shape == (1, 1, 2 * width)
    for half in (slice(0, width), slice(width, None)):
        angles = np.arctan2(ours.sin[0, 0, half], ours.cos[0, 0, half])
        np.testing.assert_allclose(angles, frequencies, rtol=RELATIVE)
    scale = np.hypot(ours.cos, ours.sin)
    np.testing.assert_allclose(scale, theirs.attention_scaling, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_angles_far_into_the_text_are_those_of_transformers(name: str) -> None:
    values = config(name)
    positions = np.array([[0, 1, 1000, 2047]])
    cos, sin = GPTNeoXRotaryEmbedding(hf_config(values))(torch.ones(1), torch.tensor(positions))
    ours = Rotary.at(GPTNeoXConfig.from_hf(values), jnp.asarray(positions), jnp.array([2048]))
    # An angle of 2047 has a spacing of 1.2e-4 in float32. Measured: at most 5.7e-5.
    np.testing.assert_allclose(ours.cos, cos.numpy(), atol=2e-4)
    np.testing.assert_allclose(ours.sin, sin.numpy(), atol=2e-4)


@pytest.mark.parametrize("length", [2048, 2049, 3000, 9000])
@pytest.mark.parametrize("rotary_pct", [0.25, 0.3, 1.0])
def test_dynamic_frequencies_grow_as_in_a_fresh_transformers_model(
    length: int, rotary_pct: float
) -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    values = config_json(
        64, 2, max_position_embeddings=2048, rotary_pct=rotary_pct, rope_scaling=scaling
    )
    theirs = GPTNeoXRotaryEmbedding(hf_config(values))
    theirs(torch.ones(1), torch.tensor([[length - 1]]))
    frequencies = theirs.inv_freq.numpy()
    # The short row beside it keeps its own frequencies.
    lengths = jnp.array([length, 5])
    ours = Rotary.at(GPTNeoXConfig.from_hf(values), jnp.array([[1], [1]]), lengths)
    angles = np.arctan2(ours.sin, ours.cos)[:, 0, : len(frequencies)]
    np.testing.assert_allclose(angles[0], frequencies, rtol=RELATIVE)
    fresh = GPTNeoXRotaryEmbedding(hf_config(values)).inv_freq.numpy()
    np.testing.assert_allclose(angles[1], fresh, rtol=RELATIVE)


@pytest.mark.parametrize("name", ["default", "dynamic within the limit", "yarn", "llama3"])
def test_angles_are_float32_until_they_meet_the_activations(name: str) -> None:
    rotary = Rotary.at(
        GPTNeoXConfig.from_hf(config(name)), jnp.array([[2046, 2047]]), jnp.array([2048])
    )
    assert rotary.cos.dtype == rotary.sin.dtype == jnp.float32
    # bfloat16 cannot tell these two positions apart; the fastest pair turns by one radian.
    assert jnp.abs(rotary.cos[0, 0, 0] - rotary.cos[0, 1, 0]) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rotation_is_that_of_transformers_in_every_dtype(dtype: str) -> None:
    values = config("default, odd width")
    positions = np.arange(7)[None]
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 32)).astype(np.float32)
    theirs = torch.tensor(x).to(getattr(torch, dtype))
    cos, sin = GPTNeoXRotaryEmbedding(hf_config(values))(theirs, torch.tensor(positions))
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cos, sin)
    rotary = Rotary.at(GPTNeoXConfig.from_hf(values), jnp.asarray(positions), jnp.array([7]))
    actual = rotary.astype(jnp.dtype(dtype)).rotate(jnp.asarray(x).astype(dtype))
    assert actual.dtype == dtype
    # Each side rounds the same three operations: one unit in the last place at most.
    np.testing.assert_allclose(
        actual.astype(jnp.float32),
        expected.float().numpy(),
        rtol=float(jnp.finfo(dtype).eps),
        atol=2 * float(jnp.finfo(dtype).eps),
    )


def test_scores_depend_on_the_distance_of_tokens_alone() -> None:
    values = GPTNeoXConfig.from_hf(config("default, all of the head"))
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 32))

    def score(query_position: int, key_position: int) -> float:
        turned = [
            Rotary.at(values, jnp.array([[position]]), jnp.array([40])).rotate(x)
            for x, position in ((query, query_position), (key, key_position))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(35, 30), abs=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 0.1
