"""LoRA, a soft prompt and a prefix: what is trained of them, and what stays."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.errors import InputError
from neox_eqx.model.adapt import adapted, merge
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, SoftPrompt
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.batch import Batch
from neox_eqx.training.recipe import Recipe
from neox_eqx.training.state import TrainState
from neox_eqx.training.step import Metrics, loss_and_gradients, train_step
from neox_eqx.training.trained import Trained, join, trainable
from neox_eqx.training.tuning import Tuning
from tests.hf_models import our_logits, stack_layers
from tests.training.peers import random_batch, worst
from tests.training.peft_peers import (
    CONFIG,
    KINDS,
    LORA,
    PREFIX,
    PROMPT,
    SEQUENTIAL,
    from_peft,
    our_model,
    peft_gradients,
    peft_model,
)

RECIPE = Recipe(steps=20, learning_rate=1e-2, loss_chunk=10)
GRADIENTS = jax.jit(loss_and_gradients, static_argnums=2)


def batch() -> Batch:
    """Rows that are padded on the right, as PEFT wants them."""
    return jax.tree.map(lambda x: x[4:], random_batch(96))


def stacked(tree: Trained) -> Trained:
    return stack_layers(tree) if isinstance(tree, GPTNeoX) else tree


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["parallel, scanned", "sequential, tied, unrolled"])
def test_loss_and_gradients_are_pefts(kind: str, form: str) -> None:
    values = CONFIG if form.startswith("parallel") else SEQUENTIAL
    theirs, model = peft_model(KINDS[kind], values), our_model(values)
    trained, frozen = from_peft(theirs, KINDS[kind], model)
    loss, gradients = peft_gradients(theirs, batch(), KINDS[kind], model)
    recipe = dataclasses.replace(RECIPE, remat=values is CONFIG)
    if values is CONFIG:
        trained, frozen, gradients = map(stacked, (trained, frozen, gradients))
    our_loss, _, ours = GRADIENTS(trained, batch(), recipe, jnp.int32(0), frozen)
    # Measured 1e-7 and 3.8e-6.
    assert float(our_loss) == pytest.approx(loss, rel=1e-6)
    assert worst(ours, gradients) < 1e-5


@pytest.mark.parametrize("wrong", ["alpha", "target", "order of positions", "keys and values"])
def test_another_adapter_would_be_noticed(wrong: str) -> None:
    """Control."""
    tuning = {"order of positions": PROMPT, "keys and values": PREFIX}.get(wrong, LORA)
    theirs, model = peft_model(tuning, CONFIG), our_model(CONFIG)
    trained, frozen = from_peft(theirs, tuning, model)
    if wrong == "alpha":
        other = dataclasses.replace(tuning, lora_alpha=5.5)
        trained, frozen = from_peft(theirs, other, model)
    elif isinstance(trained, SoftPrompt):
        trained = SoftPrompt(trained.embeddings[::-1])
    elif isinstance(trained, Prefix):
        trained = Prefix(trained.value, trained.key)
    else:
        first = eqx.tree_at(lambda m: m.layers[1].mlp.dense_4h_to_h.lora_B.weight, trained, 0.0)
        trained = jax.tree.map(lambda new, old: jnp.broadcast_to(new, old.shape), first, trained)
    loss, gradients = peft_gradients(theirs, batch(), tuning, model)
    our_loss, _, ours = GRADIENTS(trained, batch(), RECIPE, jnp.int32(0), frozen)
    assert abs(float(our_loss) / loss - 1) > 1e-4
    assert worst(ours, gradients) > 1e-2


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
    # Measured 1.3e-6 of the largest.
    assert np.abs(summed - applied).max() < 1e-5 * np.abs(applied).max()
    assert np.abs(without - applied).max() > 0.1 * np.abs(applied).max()


def run(
    trained: Trained, frozen: GPTNeoX | None, recipe: Recipe = RECIPE, count: int = 1
) -> tuple[TrainState, list[Metrics]]:
    state, seen = TrainState.start(trained, recipe), []
    for _ in range(count):
        state, metrics = train_step(state, batch(), recipe, frozen)
        seen.append(metrics)
    return state, seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_learn_and_leave_the_frozen_as_it_was(kind: str) -> None:
    trained, frozen = trainable(stack_layers(our_model(CONFIG)), KINDS[kind], RECIPE)
    before = jax.tree.map(np.array, frozen)
    state, seen = run(trained, frozen, count=10)
    losses = [float(metrics.loss) for metrics in seen]
    assert losses[-1] < 0.97 * losses[0]
    assert all(map(np.array_equal, jax.tree.leaves(frozen), jax.tree.leaves(before)))
    # Of each trained parameter a checkpoint has three arrays, and of the others none.
    parameters = jax.tree.leaves(state.model)
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
    arrays = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(arrays) == sorted(3 * [leaf.shape for leaf in parameters])
    assert len(parameters) == {"lora": 8, "prompt": 1, "prefix": 2}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_of_weights_decay(kind: str) -> None:
    trained, frozen = trainable(stack_layers(our_model(CONFIG)), KINDS[kind], RECIPE)
    states = [
        run(trained, frozen, dataclasses.replace(RECIPE, weight_decay=decay))[0].model
        for decay in (0.0, 0.5)
    ]
    assert (worst(*states) > 1e-3) == (kind == "lora")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_mesh_is_that_of_one_device(kind: str) -> None:
    recipe = dataclasses.replace(RECIPE, accumulate=2 if kind == "lora" else 1)
    model = stack_layers(our_model(CONFIG))
    alone, expected = run(*trainable(model, KINDS[kind], recipe), recipe, 2)
    spread = dataclasses.replace(model, mesh=make_mesh(model.config, "data=2,model=2"))
    trained, frozen = trainable(spread, KINDS[kind], recipe)
    state, metrics = run(trained, frozen, recipe, 2)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-6)
        assert float(ours.gradient_norm) == pytest.approx(float(theirs.gradient_norm), rel=1e-5)
    # Each device has its share of what is frozen, and of what is trained along heads or the MLP.
    assert frozen is not None
    assert {x.data.shape for x in frozen.embed_in.weight.addressable_shards} == {(48, 16)}
    shares = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state.model)}
    assert (
        shares
        == {
            "lora": {(2, 4, 16), (2, 48, 4), (2, 4, 16), (2, 16, 4), (2, 64, 4), (2, 4, 64)},
            "prompt": {(5, 32)},
            "prefix": {(2, 2, 5, 8)},
        }[kind]
    )


def test_the_compiled_step_has_neither_merged_weights_nor_gradients_of_the_frozen() -> None:
    model = stack_layers(our_model({**CONFIG, "vocab_size": 320}))
    made = {}
    for name, tuning in {"lora": LORA, "prompt": PROMPT, "all": Tuning()}.items():
        trained, frozen = trainable(model, tuning, RECIPE)
        state = TrainState.start(trained, RECIPE)
        text = train_step.lower(state, batch(), RECIPE, frozen).compile().as_text()
        made[name] = re.findall(r"= f32\[((?:\d+,)*\d+)\]\S* (?!parameter|get-tuple|bitcast)", text)
    for weight in ("96,32", "2,96,32", "128,32", "2,128,32", "32,128", "320,32"):
        assert made["lora"].count(weight) == made["prompt"].count(weight)
        assert made["all"].count(weight) > made["lora"].count(weight)  # control


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
def test_a_prompt_begins_as_the_text_that_it_is_given(kind: str) -> None:
    """Before each of several documents in a row."""
    text = (7, 3, 9)
    model = stack_layers(our_model(CONFIG))
    trained, frozen = trainable(model, KINDS[kind], RECIPE, text)
    random = np.random.default_rng(0)
    documents = [random.integers(0, 96, size) for size in (6, 4)]
    rows = np.concatenate([[1] * 6, [2] * 4])[None], np.concatenate(documents)[None]
    packed = Batch(
        jnp.asarray(rows[1], jnp.int32), jnp.asarray(rows[0], jnp.int32), jnp.ones((1, 10))
    )
    begun = np.resize(text, 5)
    longer = np.concatenate([x for document in documents for x in (begun, document)])[None]
    numbers = np.repeat([1, 2], [11, 9])[None]
    weights = np.concatenate([[0.0] * 6, [1] * 5, [0.0] * 6, [1] * 3])[None]
    whole = Batch(
        jnp.asarray(longer, jnp.int32), jnp.asarray(numbers, jnp.int32), jnp.asarray(weights)
    )
    loss = GRADIENTS(trained, packed, RECIPE, jnp.int32(0), frozen)[0]
    expected = GRADIENTS(model, whole, RECIPE, jnp.int32(0))[0]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(lora_rank=-1), "lora_rank must not be below 0, not -1"),
        (dict(lora_rank=4, prompt_tokens=3), "only one can be above 0"),
        (dict(lora_rank=4, lora_alpha=0.0), "lora_alpha must be above 0, not 0.0"),
        (dict(lora_rank=4, lora_targets=("q_proj",)), "not q_proj"),
        (dict(lora_rank=4, lora_targets=()), "not none"),
        (dict(lora_rank=4, lora_targets=("dense", "dense")), "names one twice"),
        (dict(lora_rank=4, prompt_text="a"), "prompt_text is of use with"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tuning(**wrong)


def test_models_that_cannot_be_tuned_are_refused() -> None:
    model = our_model(CONFIG)
    with pytest.raises(InputError, match="int8"):
        trainable(model.quantized(), LORA, RECIPE)
    wider = GPTNeoX.init(model.config, heads=6, key=jax.random.key(0))
    with pytest.raises(InputError, match="heads="):
        trainable(wider, LORA, RECIPE)
    with pytest.raises(InputError, match="vocabulary of 96"):
        trainable(model, PROMPT, RECIPE, (3, 96))
