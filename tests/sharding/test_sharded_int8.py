"""A model in int8 on a mesh has the rounded weights and scales of one device."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.load import load
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.int8 import quantize_rows
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.sharding.rules import LAYOUTS, parameter_shardings
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import config_json, hf_model, our_logits, padded_batch

MESHES = ["data=8,model=1", "data=1,model=4", "data=2,model=4", "data=4,model=2,layout=2d"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers saved, whose columns differ in size."""
    place = tmp_path_factory.mktemp("saved")
    theirs = hf_model(config_json(64, 4, rotary_pct=0.25, use_parallel_residual=True))
    for layer in theirs.gpt_neox.layers:
        layer.mlp.dense_4h_to_h.weight.data[:, :64] *= 3
    theirs.save_pretrained(place)
    return place


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
def test_weights_scales_and_logits_are_those_of_one_device(
    directory: Path, mesh: str, stacked: bool
) -> None:
    alone = load(directory, stacked=stacked, quantize="int8")
    sharded = load(directory, stacked=stacked, mesh=mesh, quantize="int8")
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(sharded), strict=True):
        assert one.dtype == many.dtype
        np.testing.assert_array_equal(one, many)
    places = parameter_shardings(sharded, sharded.mesh, LAYOUTS[sharded.layout])
    for array, place in zip(jax.tree.leaves(sharded), jax.tree.leaves(places), strict=True):
        assert array.sharding.is_equivalent_to(place, array.ndim)
    ids, valid = padded_batch(96)
    difference = our_logits(sharded, ids, valid) - our_logits(alone, ids, valid)
    # Measured 2.4e-6: the order in which partial sums are added.
    assert np.abs(difference[valid]).max() <= 5e-6


def test_heads_of_zeros_change_nothing(directory: Path) -> None:
    alone = load(directory, quantize="int8")
    padded = load(directory, mesh="data=1,model=8,heads=8", quantize="int8")
    dense = padded.layers[0].attention.dense
    assert dense.weight.shape == (64, 128) and not np.asarray(dense.weight)[:, 64:].any()
    np.testing.assert_array_equal(dense.scale, alone.layers[0].attention.dense.scale)
    # Their product with zeros of `dense` shows nothing of what they hold, unless that is NaN.
    heads = padded.layers[0].attention.query_key_value
    weight, scale = quantize_rows(jnp.zeros((192, 64)))
    np.testing.assert_array_equal(heads.weight[192:], weight)
    np.testing.assert_array_equal(heads.scale[192:], scale)
    ids, valid = padded_batch(96)
    difference = our_logits(padded, ids, valid) - our_logits(alone, ids, valid)
    assert np.abs(difference[valid]).max() <= 5e-6


def test_a_row_that_is_split_has_one_scale_that_is_not_that_of_a_part(directory: Path) -> None:
    """Control: the largest of each device's own columns would be another scale."""
    split = load(directory, mesh="data=1,model=4", quantize="int8").layers[0].mlp.dense_4h_to_h
    whole = np.asarray(load(directory).layers[0].mlp.dense_4h_to_h.weight)
    of_parts = [quantize_rows(part)[1] for part in np.split(whole, 4, axis=1)]
    assert {shard.data.shape for shard in split.weight.addressable_shards} == {(64, 64)}
    scales = [np.asarray(shard.data) for shard in split.scale.addressable_shards]
    assert len(scales) == 4
    for scale in scales:
        np.testing.assert_array_equal(scale, quantize_rows(whole)[1])
    assert all((part < scales[0]).mean() > 0.5 for part in of_parts[1:])


def test_each_device_holds_its_share(directory: Path) -> None:
    block = load(directory, mesh="data=2,model=4", quantize="int8").layers[0]
    for array, share in [
        (block.attention.query_key_value.weight, (48, 64)),
        (block.attention.query_key_value.scale, (48,)),
        (block.attention.dense.weight, (64, 16)),
        (block.attention.dense.scale, (64,)),
        (block.mlp.dense_h_to_4h.scale, (64,)),
        (block.mlp.dense_4h_to_h.scale, (64,)),
    ]:
        assert {shard.data.shape for shard in array.addressable_shards} == {share}


def test_tokens_are_those_of_one_device(directory: Path) -> None:
    prompts = random_prompts(96, [7, 12, 3])
    requests = [request(prompt, max_new_tokens=12) for prompt in prompts]
    one = ours(load(directory, quantize="int8"), requests, eos=(3,))
    many = ours(load(directory, mesh="data=2,model=4", quantize="int8"), requests, eos=(3,))
    assert tokens(one) == tokens(many)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_scale_has_the_place_of_its_weights_rows(stacked: bool) -> None:
    config = GPTNeoXConfig(96, 64, 2, 4, 256)
    shapes = model_shapes(config, jnp.dtype("float32"), stacked=stacked, quantize="int8")
    mesh = make_mesh(config, "data=2,model=4")
    places = jax.tree_util.tree_leaves_with_path(parameter_shardings(shapes, mesh))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(place.spec)
        for path, place in places
    }
    scales = [path for path in specs if path.endswith(".scale")]
    assert len(scales) == (5 if stacked else 9)
    for path in scales:
        assert specs[path] == specs[path.removesuffix("scale") + "weight"][:-1]
