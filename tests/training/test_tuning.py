"""LoRA, a soft prompt and a prefix: what is trained of them, and what stays."""

import dataclasses
import functools
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.errors import InputError
from neox_eqx.model.adapt import adapted, merge
from neox_eqx.model.formats import quantized
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, SoftPrompt, read_prompt
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.optimizer import first_moments, update
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import Metrics, loss_and_gradients, summed_loss, train_step
from neox_eqx.training.update.trained import Trained, join, trainable
from neox_eqx.training.update.tuning import Tuning
from tests.hf_models import our_logits, stack_layers
from tests.training.peers import random_batch, worst
from tests.training.peft_peers import (
    CONFIG,
    KINDS,
    LORA,
    PROMPT,
    SEQUENTIAL,
    from_peft,
    our_model,
    peft_gradients,
    peft_model,
)

RECIPE = Recipe(steps=20, learning_rate=3e-2, loss_chunk=10)
GRADIENTS = jax.jit(loss_and_gradients, static_argnums=2)


def batch() -> Batch:
    """Rows that are padded on the right, as PEFT wants them."""
    return jax.tree.map(lambda x: x[4:], random_batch(112))


def stacked(tree: Trained) -> Trained:
    return stack_layers(tree) if isinstance(tree, GPTNeoX) else tree


def altered(trained: Trained) -> Trained:
    """A control: positions in another order, keys for values, or a layer without its LoRA."""
    if isinstance(trained, SoftPrompt):
        return SoftPrompt(trained.embeddings[::-1])
    if isinstance(trained, Prefix):
        return Prefix(trained.value, trained.key)
    return eqx.tree_at(_dense_of_last_block, trained, replace_fn=jnp.zeros_like)


def _dense_of_last_block(model: GPTNeoX) -> jax.Array:
    block = model.layers[-1] if isinstance(model.layers, tuple) else model.layers
    return block.attention.dense.lora_B.weight


@pytest.mark.typed
@pytest.mark.parametrize(
    ("kind", "form"),
    [*((kind, "scanned") for kind in KINDS), ("lora", "unrolled"), ("prefix", "unrolled")],
)
def test_loss_and_gradients_are_pefts(kind: str, form: str) -> None:
    values = {"scanned": CONFIG, "unrolled": SEQUENTIAL}[form]
    theirs, model = peft_model(KINDS[kind], values), our_model(values)
    trained, frozen = from_peft(theirs, KINDS[kind], model)
    loss, gradients = peft_gradients(theirs, batch(), KINDS[kind], model)
    recipe = dataclasses.replace(RECIPE, remat=form == "scanned")
    if form == "scanned":
        trained, frozen, gradients = map(stacked, (trained, frozen, gradients))
    our_loss, ours = GRADIENTS(trained, batch(), recipe, jnp.int32(0), frozen)
    # Measured 1e-7 and 4.8e-6.
    assert float(our_loss) == pytest.approx(loss, rel=1e-6)
    assert worst(ours, gradients) < 1e-5
    other_loss, others = GRADIENTS(altered(trained), batch(), recipe, jnp.int32(0), frozen)
    assert abs(float(other_loss) / loss - 1) > 1e-3
    assert worst(others, gradients) > 1e-2


@pytest.mark.parametrize("is_stacked", [False, True])
def test_lora_merged_is_lora_applied(is_stacked: bool) -> None:
    model = our_model(CONFIG)
    model, _ = join(*from_peft(peft_model(LORA, CONFIG), LORA, model))
    plain = our_model(CONFIG)
    if is_stacked:
        model, plain = stack_layers(model), stack_layers(plain)
    merged = merge(model)
    assert jax.tree.structure(merged) == jax.tree.structure(plain)
    tokens = np.arange(24).reshape(2, 12)
    logits = [our_logits(m, tokens, np.ones((2, 12), bool)) for m in (model, merged, plain)]
    applied, summed, without = logits
    # Measured 9e-7 of the largest.
    assert np.abs(summed - applied).max() < 1e-5 * np.abs(applied).max()
    assert np.abs(without - applied).max() > 0.1 * np.abs(applied).max()


RECIPES = {
    kind: dataclasses.replace(RECIPE, accumulate=2 if kind == "lora" else 1) for kind in KINDS
}


def run(kind: str, model: GPTNeoX, count: int) -> tuple[TrainState, GPTNeoX | None, list[Metrics]]:
    trained, frozen = trainable(model, KINDS[kind], RECIPES[kind])
    state, seen = TrainState.start(trained, RECIPES[kind]), []
    for _ in range(count):
        state, metrics = train_step(state, batch(), RECIPES[kind], frozen)
        seen.append(metrics)
    return state, frozen, seen


@functools.cache
def alone(kind: str) -> tuple[TrainState, GPTNeoX | None, list[Metrics]]:
    """Ten steps on one device."""
    return run(kind, stack_layers(our_model(CONFIG)), 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_learn_and_leave_the_frozen_as_it_was(kind: str) -> None:
    state, frozen, seen = alone(kind)
    assert float(seen[-1].loss) < 0.97 * float(seen[0].loss)
    model = stack_layers(our_model(CONFIG))
    before = trainable(model, KINDS[kind], RECIPE)[1]
    assert all(map(np.array_equal, jax.tree.leaves(frozen), jax.tree.leaves(before)))
    # Of each trained parameter a checkpoint has three arrays, and of the others none.
    parameters = jax.tree.leaves(state.model)
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
    arrays = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(arrays) == sorted(3 * [leaf.shape for leaf in parameters])
    assert len(parameters) == {"lora": 8, "prompt": 1, "prefix": 2}[kind]


SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("prompt", "prefix")]


@pytest.mark.parametrize("kind", ["lora", *SLOW_KINDS])
def test_a_step_on_a_mesh_is_that_of_one_device(kind: str) -> None:
    model = stack_layers(our_model(CONFIG))
    spread = dataclasses.replace(model, mesh=make_mesh(model.config, "data=2,model=2"))
    state, frozen, seen = run(kind, spread, 3)
    for ours, one in zip(seen, alone(kind)[2], strict=False):
        # Measured 1e-7 and 2e-7.
        assert float(ours.loss) == pytest.approx(float(one.loss), rel=1e-6)
        assert float(ours.gradient_norm) == pytest.approx(float(one.gradient_norm), rel=1e-5)
    # Each device has its share of what is frozen, and of what is trained along heads or the MLP.
    assert frozen is not None
    assert {x.data.shape for x in frozen.embed_in.weight.addressable_shards} == {(56, 16)}
    expected = {
        "lora": {(2, 4, 16), (2, 48, 4), (2, 16, 4), (2, 64, 4), (2, 4, 64)},
        "prompt": {(5, 32)},
        "prefix": {(2, 2, 5, 8)},
    }
    shares = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state.model)}
    assert shares == expected[kind]


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_prompt_on_a_mesh_is_read_as_on_one_device(kind: str) -> None:
    model = our_model(CONFIG)
    spread = dataclasses.replace(model, mesh=make_mesh(model.config, "data=1,model=2"))
    one, segment = (
        read_prompt(trainable(its, KINDS[kind], RECIPE)[0], its) for its in (model, spread)
    )
    # Measured 7e-7, of values up to 4.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=3e-6), segment, one)
    (key, *_) = jax.tree.leaves(segment)
    assert key.sharding.shard_shape(key.shape)[1] == key.shape[1] // 2


@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_of_weights_decay(kind: str) -> None:
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5)
    trained, _ = trainable(our_model(CONFIG), KINDS[kind], recipe)
    nothing = jax.tree.map(jnp.zeros_like, trained)
    moments = first_moments(recipe, trained)
    after, _, _ = update(recipe, nothing, jnp.float32(0), moments, trained)
    same = jax.tree.leaves(jax.tree.map(np.array_equal, after, trained))
    # Each A decays, and each B is 0 still.
    assert same == ([False, True] * 8 if kind == "lora" else [True] * len(same))


def test_lora_begins_as_pefts_does() -> None:
    trained, frozen = trainable(our_model(CONFIG), LORA, RECIPE)
    model, _ = join(trained, frozen)
    assert len(adapted(model)) == 8
    for lora in adapted(model):
        a, size = np.asarray(lora.lora_A.weight), lora.base_layer.weight.shape[1]
        bound = size**-0.5  # kaiming_uniform_ with a = √5
        assert 0.9 * bound < np.abs(a).max() <= bound
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.2)
        assert not np.asarray(lora.lora_B.weight).any()
    again, _ = trainable(our_model(CONFIG), LORA, RECIPE)
    other, _ = trainable(our_model(CONFIG), LORA, dataclasses.replace(RECIPE, seed=1))
    first = jax.tree.leaves(trained)[0]
    assert np.array_equal(first, jax.tree.leaves(again)[0])
    assert not np.array_equal(first, jax.tree.leaves(other)[0])


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_prompt_begins_as_its_text_before_each_document(kind: str) -> None:
    text, lengths = np.array([7, 3, 9, 7, 3]), (6, 4)
    model = our_model(CONFIG)
    trained, frozen = trainable(model, KINDS[kind], RECIPE, (7, 3, 9))
    documents = [np.random.default_rng(0).integers(0, 112, length) for length in lengths]
    packed = Batch(
        jnp.asarray(np.concatenate(documents)[None], jnp.int32),
        jnp.asarray(np.repeat([1, 2], lengths)[None], jnp.int32),
        jnp.ones((1, 10)),
    )
    loss = jax.jit(summed_loss, static_argnums=2)(trained, packed, RECIPE, None, frozen)
    rows = np.stack([np.resize([*text, *document], 11) for document in documents])
    logits = jax.nn.log_softmax(our_logits(model, rows, np.ones(rows.shape, bool)))
    expected = [
        -logits[row, 4 + place, token]
        for row, document in enumerate(documents)
        for place, token in enumerate(document)
        if place > 0
    ]
    assert float(loss) == pytest.approx(float(sum(expected)), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(lora_rank=-1), "lora_rank must not be below 0, not -1"),
        (dict(lora_rank=4, prompt_tokens=3), "only one can be above 0"),
        (dict(lora_rank=4, lora_alpha=0.0), "lora_alpha must be above 0, not 0.0"),
        (dict(lora_rank=4, lora_targets=()), "lora_targets names none"),
        (dict(lora_rank=4, lora_dropout=1.0), "lora_dropout must be from 0 to below 1, not 1.0"),
        (dict(prompt_tokens=4, use_rslora=True), "use_rslora is of use with lora_rank only"),
        (dict(lora_rank=4, lora_targets=("dense", "dense")), "names one twice"),
        (dict(lora_targets=("dense",)), "lora_targets is of use with lora_rank only"),
        (dict(lora_alpha=16.0, prompt_tokens=3), "lora_alpha is of use with lora_rank only"),
        (dict(lora_rank=4, prompt_text="a"), "prompt_text is of use with"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tuning(**wrong)


@pytest.mark.parametrize(
    "least",
    [
        dict(lora_rank=1, lora_alpha=1e-3, lora_dropout=0.0),
        dict(lora_rank=1, lora_dropout=0.999, lora_targets=("all-linear",)),
        dict(prompt_tokens=1, prompt_text="a"),
        dict(prefix_tokens=1, prompt_text="a"),
    ],
)
def test_numbers_just_within_their_range_are_taken(least: dict[str, Any]) -> None:
    assert dataclasses.asdict(Tuning(**least)).items() >= least.items()


def test_models_that_cannot_be_tuned_are_refused() -> None:
    model = our_model(CONFIG)
    with pytest.raises(InputError, match="only LoRA is trained beside"):
        trainable(jax.eval_shape(partial(quantized, model)), PROMPT, RECIPE)
    wider = model_shapes(model.config, model.dtype, stacked=False, heads=6)
    with pytest.raises(InputError, match="heads="):
        trainable(wider, LORA, RECIPE)
    with pytest.raises(InputError, match="vocabulary of 112"):
        trainable(model, PROMPT, RECIPE, (3, 112))
