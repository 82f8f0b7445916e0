"""Dropout falls where transformers has it, at the config's rates, and by the seed alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from neox_eqx.model.dropout import Dropout
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.step import loss_and_gradients, summed_loss
from tests.hf_models import pair, stack_layers
from tests.training.peers import CONFIGS, hf_loss, our_gradients, random_batch

RECIPE = Recipe(steps=10)
DROPPING = {
    name: CONFIGS[name] | dict(attention_dropout=0.2, hidden_dropout=0.3)
    for name in ("parallel", "sequential")
}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", DROPPING)
def test_the_same_masks_in_transformers_give_the_same_loss(
    name: str, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks torch for each mask; it gets ours, in the order in which it asks."""
    theirs, ours = pair(DROPPING[name])
    batch, key = random_batch(ours.config.vocab_size), jax.random.key(3)
    dropout = Dropout.of(ours.config, key)
    assert dropout is not None
    asked = []

    def drop(x: torch.Tensor, p: float, training: bool, inplace: bool = False) -> torch.Tensor:
        assert training
        layer, place = divmod(len(asked) - 1, 3)
        ones = jnp.ones(x.shape)
        if not asked:
            mask, rate = dropout.drop_hidden(ones, 0), dropout.hidden
        elif place == 0:
            mask, rate = dropout.layer(layer).drop_attention(ones), dropout.attention
        else:
            mask, rate = dropout.layer(layer).drop_hidden(ones, place - 1), dropout.hidden
        assert p == rate
        asked.append(tuple(x.shape))
        return x * torch.tensor(np.array(mask))

    monkeypatch.setattr(torch.nn.functional, "dropout", drop)
    expected = hf_loss(theirs.train(), batch).item()
    assert len(asked) == 1 + 3 * ours.config.num_hidden_layers
    ours = stack_layers(ours) if stacked else ours
    total = jax.jit(summed_loss, static_argnums=2)(ours, batch, RECIPE, key)
    assert float(total / batch.targets()[1].sum()) == pytest.approx(expected, rel=1e-5)
    plain = float(jax.jit(summed_loss, static_argnums=2)(ours, batch, RECIPE))
    assert abs(plain / float(total) - 1) > 1e-3


def test_the_rates_are_the_configs_and_the_mean_stays() -> None:
    dropout = Dropout(jax.random.key(0), 0.1, 0.4)
    for dropped, rate in [
        (dropout.drop_attention(jnp.ones(100_000)), 0.1),
        (dropout.drop_hidden(jnp.ones(100_000), 0), 0.4),
    ]:
        assert float((dropped == 0).mean()) == pytest.approx(rate, abs=0.01)
        assert float(dropped.mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.typed
def test_every_place_drops_others() -> None:
    dropout = Dropout(jax.random.key(0), 0.5, 0.5)
    ones = jnp.ones(64)
    masks = [
        mask.tobytes()
        for own in (dropout, dropout.layer(0), dropout.layer(1))
        for mask in map(
            np.asarray,
            (own.drop_attention(ones), own.drop_hidden(ones, 0), own.drop_hidden(ones, 1)),
        )
    ]
    assert len(set(masks)) == len(masks)


def test_masks_follow_from_seed_and_step() -> None:
    _, ours = pair(DROPPING["parallel"])
    batch = random_batch(ours.config.vocab_size)
    step = jax.jit(loss_and_gradients, static_argnums=2)
    other_seed = dataclasses.replace(RECIPE, seed=1)
    losses = [
        float(step(ours, batch, recipe, jnp.int32(number))[0])
        for recipe, number in [(RECIPE, 0), (RECIPE, 0), (RECIPE, 1), (other_seed, 0)]
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_a_config_without_dropout_has_none() -> None:
    _, ours = pair(CONFIGS["parallel"])
    assert Dropout.of(ours.config, jax.random.key(0)) is None
    batch = random_batch(ours.config.vocab_size)
    other_seed = dataclasses.replace(RECIPE, seed=1)
    assert our_gradients(ours, batch, RECIPE)[0] == our_gradients(ours, batch, other_seed)[0]
