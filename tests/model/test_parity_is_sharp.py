"""Negative controls: each plausible mistake exceeds the tolerance of the parity test by far.

A parity test proves little unless it fails for wrong code. Here the code is right and the model
is made wrong instead: by a config, or by weights moved to where the mistake would read them.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.rope import RopeParameters
from tests.hf_models import FAMILIES, family, from_torch, hf_logits, our_logits, padded_batch

# Twenty times what the parity test allows.
FAR = 20 * 2e-5


def distance(name: str, model: GPTNeoX) -> float:
    """The largest difference from transformers' logits at real positions."""
    theirs, _ = family(name)
    tokens, valid = padded_batch(model.config.vocab_size)
    expected = hf_logits(theirs, tokens, valid)
    return np.abs(our_logits(model, tokens, valid) - expected)[valid].max()


def misread(name: str, **changes: object) -> GPTNeoX:
    """The right weights under a config that was read wrongly."""
    theirs, _ = family(name)
    config = GPTNeoXConfig.from_hf(FAMILIES[name])
    return from_torch(theirs, dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pythia-70m", {"layer_norm_eps": 1e-4}),
        ("pythia-70m", {"layer_norm_eps": 1e-6}),
        ("pythia-70m", {"hidden_act": "gelu_fast"}),
        ("gpt-neox-20b", {"hidden_act": "gelu"}),
        ("pythia-70m", {"use_parallel_residual": False}),
        ("redpajama-3b", {"use_parallel_residual": True}),
        ("pythia-70m", {"rope_parameters": RopeParameters(partial_rotary_factor=0.5)}),
        ("polyglot-ko-1.3b", {"rope_parameters": RopeParameters(partial_rotary_factor=0.25)}),
        ("polyglot-ko-1.3b", {"rope_parameters": RopeParameters(rope_theta=500.0)}),
        (
            "rinna-bilingual-4b-8k",
            {"rope_parameters": RopeParameters(partial_rotary_factor=1.0)},
        ),
    ],
)
def test_a_misread_config_is_seen(name: str, changes: dict[str, object]) -> None:
    assert distance(name, misread(name, **changes)) > FAR


def every_layer(change: Callable[[eqx.Module], eqx.Module], model: GPTNeoX) -> GPTNeoX:
    return eqx.tree_at(lambda m: m.layers, model, tuple(change(block) for block in model.layers))


def contiguous_thirds(block: eqx.Module) -> eqx.Module:
    """The fused weight ordered by part, then head, as most other models have it."""

    def reorder(x: jnp.ndarray) -> jnp.ndarray:
        heads = block.attention.num_heads
        return x.reshape(3, heads, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    fused = block.attention.query_key_value
    return eqx.tree_at(
        lambda b: (b.attention.query_key_value.weight, b.attention.query_key_value.bias),
        block,
        (reorder(fused.weight), reorder(fused.bias)),
    )


def one_norm_for_both(block: eqx.Module) -> eqx.Module:
    return eqx.tree_at(lambda b: b.post_attention_layernorm, block, block.input_layernorm)


def no_dense_bias(block: eqx.Module) -> eqx.Module:
    return eqx.tree_at(lambda b: b.attention.dense.bias, block, replace_fn=jnp.zeros_like)


def interleaved_rotary(block: eqx.Module) -> eqx.Module:
    """Neighbouring dims turn together, where GPT-NeoX turns the halves of the rotated dims."""
    heads, width = block.attention.num_heads, 4
    order = np.arange(block.attention.dense.weight.shape[0] // heads)
    order[:width] = [0, 2, 1, 3]

    def reorder(x: jnp.ndarray) -> jnp.ndarray:
        split = x.reshape(heads, 3, len(order), *x.shape[1:])
        return split.at[:, :2].set(split[:, :2][:, :, order]).reshape(x.shape)

    fused = block.attention.query_key_value
    return eqx.tree_at(
        lambda b: (b.attention.query_key_value.weight, b.attention.query_key_value.bias),
        block,
        (reorder(fused.weight), reorder(fused.bias)),
    )


@pytest.mark.parametrize(
    "change", [contiguous_thirds, one_norm_for_both, no_dense_bias, interleaved_rotary]
)
def test_a_misplaced_weight_is_seen(change: Callable[[eqx.Module], eqx.Module]) -> None:
    _, right = family("pythia-70m")
    assert distance("pythia-70m", every_layer(change, right)) > FAR


def test_a_head_tied_by_mistake_is_seen() -> None:
    _, right = family("pythia-70m")
    tied = eqx.tree_at(lambda m: m.embed_out, right, None)
    assert distance("pythia-70m", tied) > FAR


def test_positions_that_count_padding_within_a_row_are_seen() -> None:
    # Moving a whole row changes nothing: rotary scores know distances only. A gap inside does.
    theirs, ours = family("pythia-70m")
    tokens, _ = padded_batch(ours.config.vocab_size, (12,))
    gap = np.ones(tokens.shape, bool)
    gap[:, 4:7] = False
    with_gap = hf_logits(theirs, tokens, gap)
    assert np.abs(our_logits(ours, tokens, gap) - with_gap)[:, 7:].max() > FAR


def test_padding_that_is_attended_to_is_seen() -> None:
    theirs, ours = family("pythia-70m")
    tokens, valid = padded_batch(ours.config.vocab_size)
    expected = hf_logits(theirs, tokens, valid)
    actual = our_logits(ours, tokens, np.ones_like(valid))
    assert np.abs(actual - expected)[1:3][valid[1:3]].max() > FAR
