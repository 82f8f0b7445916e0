"""A sharded model computes what one device computes, and holds a share of what one device holds."""

import itertools
import re
from collections import Counter
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.save import save
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.loop import decode, read_prompts
from neox_eqx.generation.decoding.run import pad_prompts
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import config_json, hf_model

MESHES = ["data=8,model=1", "data=1,model=4", "data=2,model=4", "data=4,model=2"]
# Weights split both ways, and heads of zeros beside the four of the model.
OTHERS = ["data=2,model=4,layout=2d", "data=1,model=8,heads=8", "data=4,model=2,heads=6,layout=2d"]
# Measured 5.8e-6 over these meshes: the order in which partial sums are added.
TOLERANCE = 1e-5
CONFIGS = {
    "parallel": config_json(64, 4, rotary_pct=0.25, use_parallel_residual=True),
    "sequential": config_json(64, 4, rotary_pct=1.0, use_parallel_residual=False),
    "tied": config_json(64, 4, rotary_pct=0.5, tie_word_embeddings=True, vocab_size=97),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints that transformers saved."""
    places = {}
    for name, config in CONFIGS.items():
        places[name] = tmp_path_factory.mktemp(name)
        hf_model(config).save_pretrained(places[name])
    return places


# One function for all tests: the model of one device is compiled once for all its meshes.
@jax.jit
def forward(model: GPTNeoX, ids: jax.Array, valid: jax.Array) -> jax.Array:
    return model.logits(model(ids, valid)[0])


def logits(model: GPTNeoX) -> np.ndarray:
    ids, valid = pad_prompts(random_prompts(96, [5, 16, 1, 9]), 96)
    return np.where(np.asarray(valid)[..., None], forward(model, ids, valid), 0)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_logits_are_those_of_one_device(
    directories: dict[str, Path], name: str, mesh: str, stacked: bool
) -> None:
    alone = load(directories[name], stacked=stacked)
    sharded = load(directories[name], stacked=stacked, mesh=mesh)
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_array_equal(one, many)
    np.testing.assert_allclose(logits(sharded), logits(alone), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("mesh", OTHERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_split_both_ways_and_heads_of_zeros_change_nothing(
    directories: dict[str, Path], name: str, mesh: str, stacked: bool, tmp_path: Path
) -> None:
    alone = load(directories[name], stacked=stacked)
    sharded = load(directories[name], stacked=stacked, mesh=mesh)
    np.testing.assert_allclose(logits(sharded), logits(alone), atol=TOLERANCE, rtol=0)
    save(sharded, tmp_path / "saved", companions=())
    again = load(tmp_path / "saved", stacked=stacked)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_split_both_ways_lie_once_on_the_mesh(directories: dict[str, Path]) -> None:
    model = load(directories["parallel"], mesh="data=2,model=4,layout=2d")
    block = model.layers[0]
    for array, share in [
        (block.attention.query_key_value.weight, (48, 32)),
        (block.attention.dense.weight, (32, 16)),
        (block.attention.dense.bias, (32,)),
        (block.mlp.dense_4h_to_h.weight, (32, 64)),
    ]:
        assert {shard.data.shape for shard in array.addressable_shards} == {share}


def test_added_heads_are_zeros(directories: dict[str, Path]) -> None:
    model = load(directories["parallel"], mesh="data=1,model=8,heads=8")
    attention = model.layers[0].attention
    assert attention.query_key_value.weight.shape == (2 * 192, 64)
    assert attention.dense.weight.shape == (64, 128)
    for added in (attention.query_key_value.weight[192:], attention.dense.weight[:, 64:]):
        assert not np.asarray(added).any()


def test_a_shard_in_the_wrong_place_would_be_noticed(directories: dict[str, Path]) -> None:
    """Control: two devices' heads swapped are far outside the tolerance."""
    alone = load(directories["parallel"])
    weight = alone.layers[0].attention.query_key_value.weight
    swapped = jnp.roll(weight, weight.shape[0] // 4, axis=0)
    wrong = eqx.tree_at(lambda m: m.layers[0].attention.query_key_value.weight, alone, swapped)
    assert np.abs(logits(wrong) - logits(alone)).max() > 1000 * TOLERANCE


def test_each_device_holds_its_share(directories: dict[str, Path]) -> None:
    model = load(directories["parallel"], mesh="data=2,model=4")
    block = model.layers[0]
    for array, share in [
        (block.attention.query_key_value.weight, (48, 64)),
        (block.attention.dense.weight, (64, 16)),
        (block.mlp.dense_h_to_4h.bias, (64,)),
        (block.mlp.dense_4h_to_h.weight, (64, 64)),
        (model.embed_in.weight, (24, 64)),
        (model.final_layer_norm.weight, (64,)),
    ]:
        assert {shard.data.shape for shard in array.addressable_shards} == {share}
        assert len(array.addressable_shards) == 8


@pytest.mark.parametrize(
    ("mesh", "rows"),
    [
        *itertools.product([*MESHES, *OTHERS], [3]),
        *(pytest.param(MESHES[2], rows, marks=pytest.mark.slow) for rows in (1, 8)),
    ],
)
def test_tokens_are_those_of_one_device_also_for_rows_that_do_not_divide(
    directories: dict[str, Path], mesh: str, rows: int
) -> None:
    alone = load(directories["parallel"])
    sharded = load(directories["parallel"], mesh=mesh)
    prompts = random_prompts(96, [7, 12, 3, 9, 1, 15, 4, 6][:rows])
    sampling = dict(temperature=0.8, top_k=20, top_p=0.9, num_samples=2, seed=5)
    sampled = [request(prompt, max_new_tokens=9, **sampling) for prompt in prompts]
    # A greedy batch of its own on one mesh; elsewhere two such rows among the sampled ones.
    if mesh == MESHES[2]:
        batches = [[request(prompt, max_new_tokens=12) for prompt in prompts], sampled]
    else:
        twice = dict(max_new_tokens=12, num_samples=2)
        batches = [[request(prompt, **twice) for prompt in prompts[:2]] + sampled]
    for requests in batches:
        one, many = ours(alone, requests, eos=(3,)), ours(sharded, requests, eos=(3,))
        assert tokens(one) == tokens(many)
        np.testing.assert_allclose(
            [row.logprob for row in one], [row.logprob for row in many], atol=1e-4
        )


@pytest.mark.parametrize("stacked", [False, True])
def test_a_decoding_step_sums_once_a_layer_and_moves_no_keys(
    directories: dict[str, Path], stacked: bool
) -> None:
    model = load(directories["parallel"], mesh="data=2,model=4", stacked=stacked)
    rows = 4
    ids, valid = pad_prompts(random_prompts(96, [9] * rows), 96)
    greedy = GenerationOptions(temperature=0.0).resolve({})
    sampler = Sampler.of([greedy] * rows, [64] * rows)
    prompt, state = read_prompts(model, ids, valid, sampler)
    place = jax.tree.leaves(state.generated.kv)[0].sharding
    compiled = decode.lower(model, (prompt,), state, sampler, jnp.int32(64)).compile()
    text = compiled.as_text()
    shapes = Counter(
        re.findall(r"f32\[([\d,]+)\]", line.split(" all-reduce(")[0].split("=", 1)[1])[0]
        for line in text.splitlines()
        if " all-reduce(" in line and "f32[" in line.split(" all-reduce(")[0]
    )
    hidden = sum(count for shape, count in shapes.items() if "64" in shape.split(","))
    # One for the embedding, and one for each layer, which stands once in the text of a scan.
    assert hidden == 1 + (1 if stacked else 2), shapes
    # What is gathered is a token or a number of each row, never a key or a value.
    moves = "all-gather|all-to-all|collective-permute"
    gathered = re.findall(rf"= \w+\[([\d,]*)\]\S* (?:{moves})\(", text)
    assert all(np.prod([int(n) for n in shape.split(",")]) <= rows * 64 for shape in gathered)
    assert jax.tree.leaves(compiled.output_shardings.generated.kv)[0].spec == place.spec
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves(state.generated.kv))
    assert compiled.memory_analysis().alias_size_in_bytes >= cache / 8


def test_a_mesh_of_jax_itself_is_taken_as_it_is(directories: dict[str, Path]) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    assert load(directories["parallel"], mesh=mesh).mesh == mesh


def test_a_mesh_of_explicit_axes_is_taken_for_its_devices(directories: dict[str, Path]) -> None:
    model = load(directories["parallel"], mesh=jax.make_mesh((2, 4), ("data", "model")))
    np.testing.assert_allclose(
        logits(model), logits(load(directories["parallel"])), atol=TOLERANCE, rtol=0
    )


def test_a_mesh_of_one_device_keeps_the_model_there(directories: dict[str, Path]) -> None:
    mesh = Mesh(np.array(jax.devices()[5:6]).reshape(1, 1), ("data", "model"))
    model = load(directories["parallel"], mesh=mesh)
    assert model.embed_in.weight.devices() == {jax.devices()[5]}


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [
        ((2, 4), ("model", "data"), "the axes of the mesh are .* they must be"),
        ((8,), ("x",), "the axes of the mesh are"),
        ((1, 8), ("data", "model"), "model=8 does not divide the 4 heads"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    directories: dict[str, Path], shape: tuple[int, ...], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(directories["parallel"], mesh=jax.make_mesh(shape, names))
