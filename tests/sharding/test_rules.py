"""Every parameter's place follows from its logical axes and one table."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.sharding.rules import constrain, parameter_shardings, sharding

MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
CONFIG = GPTNeoXConfig(96, 32, 2, 4, 128)

ROWS, COLUMNS, WHOLE = ("model",), (None, "model"), ()
EXPECTED = {
    "gpt_neox.embed_in.weight": ROWS,
    "gpt_neox.final_layer_norm.weight": WHOLE,
    "gpt_neox.final_layer_norm.bias": WHOLE,
    "embed_out.weight": ROWS,
    "input_layernorm.weight": WHOLE,
    "input_layernorm.bias": WHOLE,
    "post_attention_layernorm.weight": WHOLE,
    "post_attention_layernorm.bias": WHOLE,
    "attention.query_key_value.weight": ROWS,
    "attention.query_key_value.bias": ROWS,
    "attention.dense.weight": COLUMNS,
    "attention.dense.bias": WHOLE,
    "mlp.dense_h_to_4h.weight": ROWS,
    "mlp.dense_h_to_4h.bias": ROWS,
    "mlp.dense_4h_to_h.weight": COLUMNS,
    "mlp.dense_4h_to_h.bias": WHOLE,
}


def places(config: GPTNeoXConfig, *, stacked: bool, mesh: Mesh = MESH) -> dict[str, tuple]:
    """The axis of the mesh that splits each dimension, without what is whole at the end."""
    shapes = model_shapes(config, jnp.dtype("float32"), stacked=stacked)
    specs = jax.tree.leaves(parameter_shardings(shapes, mesh))
    names = [parameter.names[0] for parameter in parameters(shapes)]
    return {name: trimmed(place.spec) for name, place in zip(names, specs, strict=True)}


def trimmed(spec: PartitionSpec) -> tuple:
    axes = list(spec)
    while axes and axes[-1] is None:
        axes.pop()
    return tuple(axes)


@pytest.mark.parametrize("stacked", [False, True])
def test_each_parameter_is_split_as_megatron_splits_it(stacked: bool) -> None:
    found = places(CONFIG, stacked=stacked)
    for name, place in found.items():
        within = name.removeprefix("gpt_neox.layers.0.").removeprefix("gpt_neox.layers.1.")
        expected = EXPECTED[within]
        if stacked and within != name and expected:
            expected = (None, *expected)  # the layers are whole on every device
        assert place == expected, name
    assert len(found) == (16 if stacked else 4 + 2 * 12)


def test_a_vocabulary_that_does_not_divide_is_whole_and_all_else_is_split() -> None:
    found = places(dataclasses.replace(CONFIG, vocab_size=97), stacked=False)
    assert found["gpt_neox.embed_in.weight"] == found["embed_out.weight"] == ()
    assert found["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"] == ROWS


def test_a_model_without_attention_bias_has_no_place_for_it() -> None:
    found = places(dataclasses.replace(CONFIG, attention_bias=False), stacked=False)
    assert "gpt_neox.layers.0.attention.dense.bias" not in found


def test_leading_dimensions_without_an_axis_are_whole() -> None:
    assert trimmed(sharding(MESH, (3, 8, 4, 16, 8), ("rows", "heads", None, None)).spec) == (
        None,
        "data",
        "model",
    )


def test_without_a_mesh_nothing_is_constrained() -> None:
    x = jnp.ones((4, 4))
    assert constrain(x, None, "rows", None) is x
