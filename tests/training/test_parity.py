"""Losses, gradients and updates are PyTorch's on transformers' model, in float32."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM, get_cosine_schedule_with_warmup

from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step
from tests.hf_models import pair, stack_layers
from tests.training.peers import (
    CONFIGS,
    hf_gradients,
    hf_loss,
    our_gradients,
    random_batch,
    worst,
)

pytestmark = pytest.mark.optimised

# Chunks of 10 do not divide the rows of 24 tokens.
RECIPE = Recipe(steps=50, learning_rate=3e-3, warmup_steps=5, weight_decay=0.1, loss_chunk=10)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_of_a_padded_batch_are_pytorchs(name: str, stacked: bool) -> None:
    theirs, ours = pair(CONFIGS[name])
    batch = random_batch(ours.config.vocab_size)
    loss, gradients = hf_gradients(theirs, batch, ours.config)
    if stacked:
        ours, gradients = stack_layers(ours), stack_layers(gradients)
    our_loss, our_grads = our_gradients(ours, batch, RECIPE)
    # Measured 9e-8 and 1.6e-6.
    assert our_loss == pytest.approx(loss, rel=1e-6)
    assert worst(our_grads, gradients) < 1e-5


@pytest.mark.parametrize("wrong", ["documents", "weights", "tokens"])
def test_a_batch_that_is_read_otherwise_would_be_noticed(wrong: str) -> None:
    """Control: padding seen, another token learnt, or another token read."""
    theirs, ours = pair(CONFIGS["parallel"])
    batch = random_batch(ours.config.vocab_size)
    loss, gradients = hf_gradients(theirs, batch, ours.config)
    altered = {
        "documents": jnp.ones_like(batch.documents),
        "weights": jnp.roll(batch.weights, 1, axis=1),
        "tokens": batch.tokens.at[0, 3].add(1) % ours.config.vocab_size,
    }[wrong]
    our_loss, our_grads = our_gradients(
        ours, dataclasses.replace(batch, **{wrong: altered}), RECIPE
    )
    assert abs(our_loss - loss) > 1e-3 * loss
    assert worst(our_grads, gradients) > 1e-2


@pytest.mark.parametrize("name", ["parallel", "sequential"])
def test_fifty_updates_follow_pytorchs_losses(name: str) -> None:
    theirs, ours = pair(CONFIGS[name])
    batches = [random_batch(ours.config.vocab_size, (16, 11), seed) for seed in range(8)]
    state, losses = TrainState.start(stack_layers(ours), RECIPE), []
    for step in range(RECIPE.steps):
        state, metrics = train_step(state, batches[step % len(batches)], RECIPE)
        losses.append(float(metrics.loss))
    expected = torch_losses(theirs, batches, RECIPE)
    worst_step = np.abs(np.array(losses) / expected - 1).max()
    assert losses[-1] < 0.7 * losses[0]
    # Measured 5e-7.
    assert worst_step < 1e-5
    assert int(state.step) == RECIPE.steps and int(state.skipped) == 0


@pytest.mark.parametrize(
    "wrong", [dict(weight_decay=0.0), dict(clip_norm=1e3), dict(b2=0.99), dict(warmup_steps=4)]
)
def test_another_optimiser_would_be_noticed(wrong: dict[str, float]) -> None:
    """Control: each part of the recipe shows in the curve."""
    theirs, ours = pair(CONFIGS["parallel"])
    batches = [random_batch(ours.config.vocab_size, (16, 11), seed) for seed in range(8)]
    recipe = dataclasses.replace(RECIPE, **wrong)
    state, losses = TrainState.start(stack_layers(ours), recipe), []
    for step in range(RECIPE.steps):
        state, metrics = train_step(state, batches[step % len(batches)], recipe)
        losses.append(float(metrics.loss))
    expected = torch_losses(theirs, batches, RECIPE)
    assert np.abs(np.array(losses) / expected - 1).max() > 2e-3


def torch_losses(model: GPTNeoXForCausalLM, batches: list[Batch], recipe: Recipe) -> np.ndarray:
    """The loss before each update of a plain PyTorch loop."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2]
    vectors = [p for name, p in model.named_parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=recipe.weight_decay), dict(params=vectors)],
        lr=recipe.learning_rate,
        betas=(recipe.b1, recipe.b2),
        eps=recipe.eps,
        weight_decay=0.0,
    )
    schedule = get_cosine_schedule_with_warmup(adamw, recipe.warmup_steps, recipe.steps)
    losses = []
    for step in range(recipe.steps):
        adamw.zero_grad()
        loss = hf_loss(model, batches[step % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        adamw.step()
        schedule.step()
        losses.append(loss.item())
    return np.array(losses)
