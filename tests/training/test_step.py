"""What a step does beside its arithmetic: parts of a batch, bad batches, buffers, the frozen."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import Metrics, summed_loss, train_step
from tests.hf_models import pair, stack_layers
from tests.training.peers import CONFIGS, our_gradients, random_batch, worst

RECIPE = Recipe(steps=10, learning_rate=1e-2)


def model(name: str = "parallel") -> GPTNeoX:
    return stack_layers(pair(CONFIGS[name])[1])


def same(actual: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def broken(batch: Batch, how: str) -> Batch:
    if how == "infinite weight":
        return dataclasses.replace(batch, weights=batch.weights.at[0, 1].set(jnp.inf))
    return dataclasses.replace(batch, weights=jnp.zeros_like(batch.weights))


@pytest.mark.typed
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_gives_what_it_gives_as_a_whole(parts: int) -> None:
    ours = model()
    batch = random_batch(ours.config.vocab_size)
    recipe = dataclasses.replace(RECIPE, accumulate=parts)
    loss, gradients = our_gradients(ours, batch, recipe)
    whole_loss, whole = our_gradients(ours, batch, RECIPE)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert worst(gradients, whole) < 1e-5
    # Control: the parts have different weights, so their plain mean is another number.
    halves = [jax.tree.map(lambda x: x[i::2], batch) for i in range(2)]  # noqa: B023
    plain = np.mean([our_gradients(ours, half, RECIPE)[0] for half in halves])
    assert abs(plain - whole_loss) > 1e-3


def test_computing_layers_again_changes_nothing() -> None:
    ours = model("sequential")
    batch = random_batch(ours.config.vocab_size)
    loss, gradients = our_gradients(ours, batch, RECIPE)
    kept_loss, kept = our_gradients(ours, batch, dataclasses.replace(RECIPE, remat=False))
    assert loss == kept_loss
    assert worst(gradients, kept) < 1e-5


@pytest.mark.parametrize("how", ["infinite weight", "no weight"])
def test_a_batch_that_is_not_finite_changes_nothing_and_is_counted(how: str) -> None:
    good = random_batch(112)
    bad = broken(good, how)
    state = TrainState.start(model(), RECIPE)
    state, first = train_step(state, good, RECIPE)
    before = jax.tree.map(np.array, (state.model, state.optimizer))
    skipped, rates = [], []
    for batch in (bad, bad, good):
        state, metrics = train_step(state, batch, RECIPE)
        skipped.append((int(state.skipped), int(state.skipped_in_a_row), bool(metrics.finite)))
        rates.append(float(metrics.learning_rate))
        assert same((state.model, state.optimizer), before) == (batch is bad)
    assert skipped == [(1, 1, False), (2, 2, False), (2, 0, True)]
    assert rates[0] == rates[1] == rates[2] < float(first.learning_rate)
    assert int(state.step) == 4
    # The same as if the bad batches had not been there.
    clean = TrainState.start(model(), RECIPE)
    for _ in range(2):
        clean, _ = train_step(clean, good, RECIPE)
    assert same((state.model, state.optimizer), (clean.model, clean.optimizer))


def test_a_parameter_that_is_not_finite_is_noticed_too() -> None:
    ours = model()
    ours = eqx.tree_at(lambda m: m.layers.mlp.dense_4h_to_h.bias, ours, jnp.full((2, 64), jnp.nan))
    state, metrics = train_step(TrainState.start(ours, RECIPE), random_batch(112), RECIPE)
    assert not metrics.finite and int(state.skipped) == 1


def test_the_state_is_updated_in_its_own_buffers() -> None:
    state, batch = TrainState.start(model(), RECIPE), random_batch(112)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    compiled = train_step.lower(state, batch, RECIPE).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= size
    train_step(state, batch, RECIPE)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.model, state.optimizer)))


def test_the_model_that_training_starts_from_stays() -> None:
    ours = model()
    before = jax.tree.map(np.array, ours)
    train_step(TrainState.start(ours, RECIPE), random_batch(112), RECIPE)
    assert same(ours, before)


def test_what_is_frozen_is_used_and_not_changed() -> None:
    ours, batch = model(), random_batch(112)
    last = jax.tree.map(lambda _: False, ours)
    last = eqx.tree_at(lambda m: m.embed_out.weight, last, True)
    trained, frozen = eqx.partition(ours, last)
    state = TrainState.start(trained, RECIPE)
    assert len(jax.tree.leaves(state.model)) == 1
    state, metrics = train_step(state, batch, RECIPE, frozen)
    whole = train_step(TrainState.start(ours, RECIPE), batch, RECIPE)[1]
    assert float(metrics.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert 0 < float(metrics.gradient_norm) < float(whole.gradient_norm)
    after = eqx.combine(state.model, frozen)
    changed = jax.tree.map(lambda new, old: not np.array_equal(new, old), after, ours)
    assert jax.tree.leaves(changed) == jax.tree.leaves(last)


def run(recipe: Recipe, steps: int) -> tuple[TrainState, list[Metrics]]:
    state, seen = TrainState.start(model(), recipe), []
    for seed in range(steps):
        state, metrics = train_step(state, random_batch(112, (16, 16), seed % 2), recipe)
        seen.append(metrics)
    return state, seen


def test_bfloat16_learns_with_float32_parameters() -> None:
    recipe = Recipe(steps=20, learning_rate=6e-3, compute_dtype="bfloat16")
    state, seen = run(recipe, 20)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.model)} == {jnp.dtype("float32")}
    losses = [float(metrics.loss) for metrics in seen]
    exact = [
        float(m.loss) for m in run(dataclasses.replace(recipe, compute_dtype="float32"), 20)[1]
    ]
    assert losses[-1] < 0.6 * losses[0]
    assert losses[0] == pytest.approx(exact[0], rel=1e-2) and losses[0] != exact[0]
    assert losses[-1] == pytest.approx(exact[-1], rel=5e-2)


def test_the_embedding_of_a_frequent_token_gets_all_of_its_gradient_in_bfloat16() -> None:
    ours = model()
    batch = Batch(jnp.full((8, 256), 5), jnp.ones((8, 256), jnp.int32), jnp.ones((8, 256)))
    batch = dataclasses.replace(batch, tokens=batch.tokens.at[:, ::9].set(7).astype(jnp.int32))
    rows = [
        our_gradients(ours, batch, dataclasses.replace(RECIPE, compute_dtype=dtype))[1]
        for dtype in ("bfloat16", "float32")
    ]
    actual, expected = (np.asarray(row.embed_in.weight[5]) for row in rows)
    # Measured 0.014, which is bfloat16's own; summed in bfloat16 it would be 0.56.
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_evaluation_is_the_loss_of_training_without_dropout() -> None:
    ours, batch = model(), random_batch(112)
    total = jax.jit(summed_loss, static_argnums=2)(ours, batch, RECIPE)
    loss, _ = our_gradients(ours, batch, RECIPE)
    assert float(total / batch.targets()[1].sum()) == pytest.approx(loss, rel=1e-6)
