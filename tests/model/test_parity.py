"""The forward pass is transformers' for every family, in float32 and in half precision."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from neox_eqx.config import GPTNeoXConfig
from tests.hf_models import (
    FAMILIES,
    config_json,
    family,
    from_torch,
    hf_logits,
    hf_model,
    hf_states,
    our_logits,
    our_states,
    padded_batch,
    pair,
)

pytestmark = pytest.mark.optimised

# Measured: at most 6.0e-6 over all families, layers and both paddings. The smallest mistake, an
# epsilon of 1e-6 for 1e-5, makes 6.7e-4 (test_parity_is_sharp.py).
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_and_the_logits_are_those_of_transformers(name: str) -> None:
    theirs, ours = family(name)
    tokens, valid = padded_batch(ours.config.vocab_size)
    expected_states, expected = hf_states(theirs, tokens, valid)
    states, logits = our_states(ours, tokens, valid)
    # The tolerance means something at this scale only.
    assert 0.7 < np.sqrt(np.square(expected[valid]).mean()) < 2.5
    np.testing.assert_allclose(logits[valid], expected[valid], atol=TOLERANCE, rtol=0)
    assert len(states) == len(expected_states) == ours.config.num_hidden_layers + 1
    for ours_after, theirs_after in zip(states, expected_states, strict=True):
        np.testing.assert_allclose(ours_after[valid], theirs_after[valid], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "name", ["gpt-neox-20b", "pythia-1b", "redpajama-3b", "line-3.6b", "no-attention-bias", "yarn"]
)
def test_half_precision_is_as_close_to_float32_as_transformers(name: str, dtype: str) -> None:
    exact, _ = family(name)
    rounded = copy.deepcopy(exact).to(getattr(torch, dtype))
    ours = from_torch(rounded, GPTNeoXConfig.from_hf(FAMILIES[name]))
    assert ours.dtype == jnp.dtype(dtype)
    tokens, valid = padded_batch(ours.config.vocab_size, (40, 33, 12), seed=1)
    truth = hf_logits(exact, tokens, valid)[valid]
    their_error = np.abs(hf_logits(rounded, tokens, valid)[valid] - truth).max()
    actual = our_logits(ours, tokens, valid)[valid]
    assert np.abs(actual - truth).max() <= 1.5 * their_error

    # A lead of more than twice transformers' own error is one that transformers keeps.
    second, first = np.sort(truth, axis=-1)[:, -2:].T
    clear = first - second > 2 * their_error
    assert clear.sum() > len(clear) / 4
    assert (actual.argmax(-1) == truth.argmax(-1))[clear].all()


@pytest.mark.parametrize("length", [24, 32, 33, 50])
def test_dynamic_rope_of_each_row_is_that_of_a_fresh_transformers_model(length: int) -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    values = config_json(48, 3, rotary_pct=1.0, max_position_embeddings=32, rope_scaling=scaling)
    _, ours = pair(values)
    tokens, valid = padded_batch(96, (length, 20))
    actual = our_logits(ours, tokens, valid)
    for row, real in enumerate(valid):
        alone = tokens[row, real][None]
        # A new model each time: transformers keeps frequencies that an earlier call stretched.
        expected = hf_logits(hf_model(values), alone, np.ones(alone.shape, bool))
        np.testing.assert_allclose(actual[row, real], expected[0], atol=TOLERANCE, rtol=0)
