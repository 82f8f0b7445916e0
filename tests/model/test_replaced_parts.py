"""A part of a model may be any module that is called as it is, where `eqx.tree_at` puts it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.model.attention import Attention
from neox_eqx.model.context import Context
from neox_eqx.model.keys_values import KV
from neox_eqx.model.mlp import MLP
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import family, our_logits, padded_batch, stack_layers

# Measured 3e-7: the biases are added one after the other.
TOLERANCE = 2e-6
PARALLEL, SEQUENTIAL = "redpajama-3b", "no-attention-bias"


class Times(eqx.Module):
    """What a part adds, times a number."""

    part: Any
    factor: float

    def __call__(self, x: jax.Array, *rest: Any) -> Any:
        result = self.part(x, *rest)
        if isinstance(result, tuple):
            y, new = result
            return y * self.factor, new
        return result * self.factor


class Nothing(eqx.Module):
    """An attention that adds nothing."""

    shape: tuple[int, int] = eqx.field(static=True)

    def __call__(
        self, x: jax.Array, past: tuple[KV, ...], context: Context
    ) -> tuple[jax.Array, KV]:
        rows, length, _ = x.shape
        heads, size = self.shape
        zeros = jnp.zeros((rows, heads, length, size))
        return jnp.zeros_like(x), KV(zeros, zeros)


class PerToken(eqx.Module):
    """A network of Equinox's own, which has its activation, a function, among its leaves."""

    network: eqx.nn.MLP

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return jax.vmap(jax.vmap(self.network))(x)


class Halved(MLP):
    """A part that derives from ours, and is called all the same."""

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return super().__call__(x, context) / 2


def scaled_weights(part: Attention | MLP, factor: float) -> Attention | MLP:
    """Our own part that adds so many times as much."""
    name = "dense" if isinstance(part, Attention) else "dense_4h_to_h"
    linear = getattr(part, name)
    bias = None if linear.bias is None else linear.bias * factor
    linear = dataclasses.replace(linear, weight=linear.weight * factor, bias=bias)
    return dataclasses.replace(part, **{name: linear})


@pytest.mark.parametrize("name", [PARALLEL, SEQUENTIAL])
@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_a_part_that_stands_for_ours_does_what_it_says(name: str, part: str) -> None:
    model = family(name)[1]

    def where(model: GPTNeoX) -> Any:
        return getattr(model.layers[1], part)

    ids, valid = padded_batch(80)
    expected = eqx.tree_at(where, model, scaled_weights(where(model), 3.0))
    replaced = eqx.tree_at(where, model, Times(where(model), 3.0))
    logits = our_logits(replaced, ids, valid)
    np.testing.assert_allclose(
        logits[valid], our_logits(expected, ids, valid)[valid], atol=TOLERANCE
    )
    assert np.abs(logits - our_logits(model, ids, valid))[valid].max() > 1e-2
    prompts = random_prompts(80, [3, 7])
    wanted = [request(prompt, max_new_tokens=6) for prompt in prompts]
    assert tokens(ours(replaced, wanted)) == tokens(ours(expected, wanted))


def test_scanned_layers_take_one_for_all_of_them() -> None:
    model = stack_layers(family(PARALLEL)[1])
    ids, valid = padded_batch(80)
    expected = eqx.tree_at(lambda m: m.layers.mlp, model, scaled_weights(model.layers.mlp, 0.5))
    halved = Halved(**vars(model.layers.mlp))
    replaced = eqx.tree_at(lambda m: m.layers.mlp, model, halved)
    np.testing.assert_allclose(
        our_logits(replaced, ids, valid)[valid],
        our_logits(expected, ids, valid)[valid],
        atol=TOLERANCE,
    )


def test_a_layer_without_attention_reads_each_token_alone() -> None:
    model = family(PARALLEL)[1]
    nothing = Nothing((model.num_heads, model.config.head_dim))
    blind = eqx.tree_at(
        lambda m: [block.attention for block in m.layers], model, [nothing] * len(model.layers)
    )
    ids = np.array([[5, 6, 7], [9, 9, 7]])
    logits = our_logits(blind, ids, np.ones_like(ids, bool))
    np.testing.assert_array_equal(logits[0, 2], logits[1, 2])
    seen = our_logits(model, ids, np.ones_like(ids, bool))
    assert np.abs(seen[0, 2] - seen[1, 2]).max() > 1e-3
    requests = [request([5, 6, 7], max_new_tokens=5), request([7], max_new_tokens=5)]
    one, other = tokens(ours(blind, requests))
    assert one == other


def test_a_network_with_a_function_among_its_leaves_is_compiled_too() -> None:
    model = family(PARALLEL)[1]
    size = model.config.hidden_size
    network = eqx.nn.MLP(size, size, 8, depth=1, key=jax.random.key(0))
    replaced = eqx.tree_at(lambda m: m.layers[1].mlp, model, PerToken(network))
    ids, valid = padded_batch(80)
    eager = replaced.logits(replaced(jnp.asarray(ids), jnp.asarray(valid))[0])
    np.testing.assert_allclose(our_logits(replaced, ids, valid), eager, atol=2e-5)
