"""The model as an object: its parameters, its forms and the example in its docstring."""

import doctest
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model import neox
from neox_eqx.model.neox import GPTNeoX
from tests.hf_models import FAMILIES, family, stack_layers


def shapes(config: GPTNeoXConfig, **options: Any) -> GPTNeoX:
    """The shapes and dtypes of a fresh model, without the work of drawing it."""
    return eqx.filter_eval_shape(GPTNeoX.init, config, key=jax.random.key(0), **options)


def test_the_example_runs() -> None:
    result = doctest.testmod(neox)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", ["pythia-70m", "line-3.6b", "no-attention-bias"])
def test_fresh_parameters_have_the_names_and_shapes_of_transformers(name: str) -> None:
    theirs, _ = family(name)
    model = shapes(GPTNeoXConfig.from_hf(FAMILIES[name]))
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
    }
    expected = {
        name.removeprefix("gpt_neox.").replace("lm_head", "embed_out"): tuple(parameter.shape)
        for name, parameter in theirs.named_parameters()
    }
    assert ours == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_kept_throughout_and_logits_are_float32(dtype: str) -> None:
    config = GPTNeoXConfig.from_hf(FAMILIES["redpajama-3b"])
    model = shapes(config, dtype=jnp.dtype(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(dtype)}
    tokens = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    valid = jax.ShapeDtypeStruct((2, 5), jnp.bool_)
    hidden, segment = eqx.filter_eval_shape(GPTNeoX.__call__, model, tokens, valid)
    assert hidden.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(segment.kv)} == {jnp.dtype(dtype)}
    assert eqx.filter_eval_shape(GPTNeoX.logits, model, hidden).dtype == jnp.float32


def test_fresh_weights_have_the_initializer_range() -> None:
    config = GPTNeoXConfig(400, 64, 2, 4, 256, initializer_range=0.05)
    model = GPTNeoX.init(config, key=jax.random.key(1), stacked=True)
    for leaf in (model.embed_in.weight, model.layers.mlp.dense_h_to_4h.weight):
        assert float(leaf.std()) == pytest.approx(0.05, rel=0.05)
    first, second = np.asarray(model.layers.attention.query_key_value.weight)
    assert not np.array_equal(first, second)


def test_stacked_parameters_are_the_unrolled_ones_with_a_layer_axis() -> None:
    config = GPTNeoXConfig.from_hf(FAMILIES["pythia-70m"])
    unrolled = GPTNeoX.init(config, key=jax.random.key(0))
    stacked = stack_layers(unrolled)
    fresh = shapes(config, stacked=True)
    assert jax.tree.structure(fresh) == jax.tree.structure(stacked)
    assert [leaf.shape for leaf in jax.tree.leaves(fresh)] == [
        leaf.shape for leaf in jax.tree.leaves(stacked)
    ]
    for layer, block in enumerate(unrolled.layers):
        for one, all_layers in zip(
            jax.tree.leaves(block), jax.tree.leaves(stacked.layers), strict=True
        ):
            np.testing.assert_array_equal(all_layers[layer], one)
