"""A step on a mesh is the step of one device, and each device holds its share of all of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState, abstract_step
from neox_eqx.training.update.step import train_step
from tests.hf_models import pair, stack_layers
from tests.training.peers import CONFIGS, random_batch

MESHES = ["data=8,model=1", "data=4,model=2", "data=2,model=4"]
RECIPE = Recipe(steps=10, learning_rate=1e-3, loss_chunk=10)
# Not of the moments: Adam divides by the root of the second, which for a gradient near 0 turns
# the last bit of a sum into a different update.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5


def one_device(name: str) -> GPTNeoX:
    return stack_layers(pair(CONFIGS[name])[1])


def on_mesh(model: GPTNeoX, sizes: str) -> GPTNeoX:
    """The model as it is loaded to fine-tune it: TrainState.start spreads it."""
    return dataclasses.replace(model, mesh=make_mesh(model.config, sizes))


def first_gradients(state: TrainState) -> list[np.ndarray]:
    """After one update the first moments are the gradients, clipped and times 1 - b1."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.optimizer.mu)]


@pytest.mark.parametrize(
    ("name", "own", "sizes"),
    [
        *(("parallel", {}, sizes) for sizes in MESHES),
        ("sequential", {"accumulate": 2}, "data=4,model=2"),
        ("tied", {}, "data=2,model=4"),
    ],
)
def test_a_step_is_that_of_one_device(name: str, own: dict[str, int], sizes: str) -> None:
    recipe = dataclasses.replace(RECIPE, **own)
    model = one_device(name)
    batch = random_batch(model.config.vocab_size, (24, 24, 17, 17, 9, 9, 2, 2))
    alone, expected = train_step(TrainState.start(model, recipe), batch, recipe)
    state, metrics = train_step(TrainState.start(on_mesh(model, sizes), recipe), batch, recipe)
    assert float(metrics.loss) == pytest.approx(float(expected.loss), rel=LOSS_TOLERANCE)
    assert float(metrics.gradient_norm) == pytest.approx(float(expected.gradient_norm), rel=1e-5)
    for many, one in zip(first_gradients(state), first_gradients(alone), strict=True):
        assert np.abs(many - one).max() < GRADIENT_TOLERANCE * np.abs(one).max()
    # The second step reads what the first has written.
    _, expected = train_step(alone, batch, recipe)
    _, metrics = train_step(state, batch, recipe)
    assert float(metrics.loss) == pytest.approx(float(expected.loss), rel=1e-5)


def test_a_row_that_is_left_out_would_be_noticed() -> None:
    """Control: what a mesh would compute that lost a device's rows."""
    model = one_device("parallel")
    batch = random_batch(112, (24, 24, 17, 17, 9, 9, 2, 2))
    short = dataclasses.replace(batch, weights=batch.weights.at[0].set(0))
    whole, expected = train_step(TrainState.start(model, RECIPE), batch, RECIPE)
    state, metrics = train_step(TrainState.start(model, RECIPE), short, RECIPE)
    assert abs(float(metrics.loss) / float(expected.loss) - 1) > 10 * LOSS_TOLERANCE
    differences = [
        np.abs(a - b).max() / np.abs(b).max()
        for a, b in zip(first_gradients(state), first_gradients(whole), strict=True)
    ]
    assert max(differences) > 10 * GRADIENT_TOLERANCE


def test_parameters_and_moments_are_spread_over_all_devices() -> None:
    state = TrainState.start(on_mesh(one_device("parallel"), "data=2,model=4"), RECIPE)
    state, _ = train_step(state, random_batch(112), RECIPE)
    block = state.model.layers
    for array, share in [
        (block.attention.query_key_value.weight, (2, 48, 32)),
        (block.attention.dense.weight, (2, 32, 16)),
        (block.mlp.dense_h_to_4h.bias, (2, 64)),
        (block.mlp.dense_4h_to_h.weight, (2, 32, 64)),
        (state.model.embed_in.weight, (28, 32)),
        (state.model.final_layer_norm.weight, (32,)),
    ]:
        assert {shard.data.shape for shard in array.addressable_shards} == {share}
    parameters = jax.tree.leaves(state.model)
    for tree in (state.optimizer.mu, state.optimizer.nu):
        for moment, parameter in zip(jax.tree.leaves(tree), parameters, strict=True):
            assert moment.sharding == parameter.sharding


def test_the_abstract_arguments_are_those_of_a_real_step() -> None:
    model = on_mesh(one_device("parallel"), "data=2,model=4")
    assert model.mesh is not None
    state = TrainState.start(model, RECIPE)
    shapes, batch_shapes = abstract_step(model.config, model.mesh, RECIPE, 8, 24)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)
    batch = random_batch(112)
    assert jax.tree.structure(batch_shapes) == jax.tree.structure(batch)
    for shape, array in zip(jax.tree.leaves(batch_shapes), jax.tree.leaves(batch), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)


def test_documents_are_packed_on_a_mesh_as_on_one_device() -> None:
    model = one_device("parallel")
    random = np.random.default_rng(0)
    documents = np.sort(random.integers(1, 5, (8, 24)), axis=1)
    tokens = random.integers(0, 112, (8, 24))
    batch = Batch(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(documents, jnp.int32), jnp.ones((8, 24))
    )
    _, expected = train_step(TrainState.start(model, RECIPE), batch, RECIPE)
    state = TrainState.start(on_mesh(model, "data=4,model=2"), RECIPE)
    _, metrics = train_step(state, batch, RECIPE)
    assert float(metrics.loss) == pytest.approx(float(expected.loss), rel=LOSS_TOLERANCE)
