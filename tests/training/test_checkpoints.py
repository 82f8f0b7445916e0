"""A state comes back as it was, on whatever mesh; what cannot be written or read is one line."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.load import LoadOptions, load, load_shapes
from neox_eqx.checkpoint.origin import find
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.rules import TRAINING_RULES
from neox_eqx.training.run.checkpoints import Checkpoints
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState, abstract_state
from tests.hf_models import config_json, hf_model

RECIPE = Recipe(steps=10)
HOW = {"dtype": "float32", "rules": TRAINING_RULES}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16."""
    directory = tmp_path_factory.mktemp("model")
    hf_model(config_json(32, 4, vocab_size=64)).bfloat16().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def state(saved: Path) -> TrainState:
    """One whose numbers all differ; of step 7."""
    state = TrainState.start(load(saved, mesh="data=2,model=2", **HOW), RECIPE)
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
        jax.device_put(jax.random.normal(key, leaf.shape), leaf.sharding) if leaf.ndim else leaf + 7
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def at(state: TrainState, step: int) -> TrainState:
    return dataclasses.replace(state, step=jnp.full_like(state.step, step))


def assert_equal(actual: object, expected: object) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("mesh", ["data=4,model=2", "data=2,model=4", "data=1,model=1"])
def test_parameters_are_loaded_where_training_has_them(saved: Path, mesh: str) -> None:
    model = load(saved, mesh=mesh, **HOW)
    whole = load(saved, dtype="float32")
    assert_equal(model, whole)
    shapes = load_shapes(Checkpoint.open(find(saved)), LoadOptions(mesh=mesh, **HOW))
    started = TrainState.start(model, RECIPE).model
    for array, shape, own in zip(*map(jax.tree.leaves, (model, shapes, started)), strict=True):
        assert (shape.shape, shape.dtype) == (
            array.shape,
            array.dtype == jnp.float32 and array.dtype,
        )
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)
        assert array.sharding.is_equivalent_to(own.sharding, array.ndim)
    data, model_size = (int(part.split("=")[1]) for part in mesh.split(","))
    (weight,) = {shard.data.shape for shard in first_weight(model).addressable_shards}
    assert weight == (3 * 32 // model_size, 32 // data)


def first_weight(model: GPTNeoX) -> jax.Array:
    return model.layers[0].attention.query_key_value.weight


@pytest.mark.parametrize("mesh", ["data=2,model=2", "data=8", "data=1,model=4", "data=1,model=1"])
def test_a_state_comes_back_on_any_mesh(
    saved: Path, state: TrainState, tmp_path: Path, mesh: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state)
    checkpoints.finish()
    shapes = abstract_state(
        load_shapes(Checkpoint.open(find(saved)), LoadOptions(mesh=mesh, **HOW)), RECIPE
    )
    restored = Checkpoints(tmp_path, keep=2).restore(shapes)
    assert int(restored.step) == 7
    assert_equal(restored, state)
    for array, shape in zip(jax.tree.leaves(restored), jax.tree.leaves(shapes), strict=True):
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)


def test_the_last_ones_are_kept(state: TrainState, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 3, 5):
        checkpoints.save(at(state, step))
    checkpoints.finish()
    assert checkpoints.latest == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "5"]


def test_what_a_killed_process_left_goes(state: TrainState, tmp_path: Path) -> None:
    (tmp_path / "3.orbax-checkpoint-tmp" / "default.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / ".old" / "1").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest is None
    assert not (tmp_path / ".old").exists()  # before the room that it takes is needed
    checkpoints.save(at(state, 2))
    checkpoints.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_state_is_saved_as_it_was_while_the_run_goes_on(
    saved: Path, state: TrainState, tmp_path: Path
) -> None:
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    own = jax.tree.map(jnp.copy, state)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(own)
    for _ in range(3):
        own = step(own)
    checkpoints.finish()
    assert_equal(checkpoints.restore(jax.tree.map(shape_of, state)), state)


def shape_of(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def test_no_room_for_a_checkpoint_is_said_before_it_is_begun(
    state: TrainState, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.check_space(state)
    huge = jax.tree.map(lambda _: jax.ShapeDtypeStruct((2**40,), jnp.float32), state)
    count = len(jax.tree.leaves(state))
    needed = f"{count * 2**42 / 1e12:.0f}"
    match = rf"a checkpoint takes {needed} TB, and there is room for [\d.]+ [TGMk]?B; make room"
    with pytest.raises(InputError, match=match):
        checkpoints.check_space(huge)


def test_a_pipe_a_device_and_a_huge_description_are_refused_unread(tmp_path: Path) -> None:
    described = tmp_path / "1" / "_CHECKPOINT_METADATA"
    described.parent.mkdir()
    described.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"_CHECKPOINT_METADATA: is a pipe or a device"):
        Checkpoints(tmp_path, keep=2)
    described.unlink()
    os.mkfifo(described)
    with pytest.raises(InputError, match=r"_CHECKPOINT_METADATA: is a pipe or a device"):
        Checkpoints(tmp_path, keep=2)
    described.unlink()
    for name in ("_CHECKPOINT_METADATA", "default/array_metadatas/process_0"):
        described = tmp_path / "1" / name
        described.parent.mkdir(parents=True, exist_ok=True)
        with described.open("wb") as file:
            file.truncate(10**11)
        with pytest.raises(InputError, match=f"{name}: has more than 10000000 bytes"):
            Checkpoints(tmp_path, keep=2)
        described.unlink()


def test_a_checkpoint_that_cannot_be_read_is_named_with_the_one_before(
    state: TrainState, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 7):
        checkpoints.save(at(state, step))
    checkpoints.finish()
    path = tmp_path / "7" / "default" / "_METADATA"
    path.write_bytes(path.read_bytes()[:50])
    message = (
        ": that of step 7 cannot be read; if it is damaged, remove it, and the run goes on from "
        "step 5: "
    )
    damaged = Checkpoints(tmp_path, keep=2)
    with pytest.raises(InputError, match=message) as raised:
        damaged.restore(jax.tree.map(shape_of, state))
    assert "\n" not in str(raised.value)
    shutil.rmtree(tmp_path / "5")
    with pytest.raises(InputError, match="remove it, and the run begins anew: "):
        Checkpoints(tmp_path, keep=2).restore(jax.tree.map(shape_of, state))
