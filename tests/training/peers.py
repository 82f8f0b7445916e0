"""The same batches, losses and gradients by transformers and PyTorch, and by us."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.step import loss_and_gradients
from tests.hf_models import config_json, from_torch, padded_batch

CONFIGS = {
    "parallel": config_json(64, 4, rotary_pct=0.25, use_parallel_residual=True, vocab_size=112),
    "sequential": config_json(48, 4, rotary_pct=1.0, use_parallel_residual=False),
    "tied": config_json(48, 4, rotary_pct=0.5, tie_word_embeddings=True, vocab_size=97),
}

LENGTHS = (24, 17, 9, 2)


def random_batch(vocab_size: int, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Batch:
    """Each length padded on the left, then each on the right; a third of the tokens weigh 0."""
    tokens, valid = padded_batch(vocab_size, lengths, seed=seed)
    weights = np.random.default_rng(seed + 1000).random(tokens.shape) < 2 / 3
    return Batch(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(valid, jnp.int32), jnp.asarray(weights, float)
    )


def hf_loss(model: GPTNeoXForCausalLM, batch: Batch) -> torch.Tensor:
    """transformers' own loss on the tokens that have a weight, which must all be 1."""
    documents, weights = np.array(batch.documents), np.array(batch.weights)
    labels = torch.tensor(np.array(batch.tokens)).long()
    # It takes padding on the left for context of the first token.
    learnt = (weights == 1) & (np.pad(documents, ((0, 0), (1, 0)))[:, :-1] == documents)
    labels[torch.tensor(~learnt | (documents == 0))] = -100
    return model(
        torch.tensor(np.array(batch.tokens)).long(),
        attention_mask=torch.tensor(documents).long(),
        labels=labels,
    ).loss


def hf_gradients(model: GPTNeoXForCausalLM, batch: Batch, config: Any) -> tuple[float, GPTNeoX]:
    """The loss, and its gradients in the form of our model."""
    model.zero_grad()
    loss = hf_loss(model, batch)
    loss.backward()
    gradients = copy.deepcopy(model)
    with torch.no_grad():
        for theirs, ours in zip(model.parameters(), gradients.parameters(), strict=True):
            ours.copy_(theirs.grad)
    return loss.item(), from_torch(gradients, config)


def our_gradients(model: GPTNeoX, batch: Batch, recipe: Recipe) -> tuple[float, GPTNeoX]:
    step = jax.jit(loss_and_gradients, static_argnums=2)
    loss, gradients = step(model, batch, recipe, jnp.int32(0))
    return float(loss), gradients


def worst(actual: Any, expected: Any) -> float:
    """The largest difference of two trees, relative to the largest number of its array."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
        for a, b in pairs
    )
