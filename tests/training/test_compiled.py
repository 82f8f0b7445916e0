"""What the compiled step holds, and what it sends between devices."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.adapt import TARGETS
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState, abstract_step
from neox_eqx.training.update.step import train_step
from neox_eqx.training.update.trained import trainable
from neox_eqx.training.update.tuning import Tuning

ROWS, LENGTH, VOCAB, LAYERS = 16, 64, 320, 3
# No two of its sizes are the same, nor any product of the batch's that is looked for.
CONFIG = GPTNeoXConfig(VOCAB, 48, LAYERS, 4, 176)
RECIPE = Recipe(steps=10, loss_chunk=16)


@functools.cache
def program(recipe: Recipe = RECIPE) -> str:
    """The optimised step for one device."""
    mesh = make_mesh(CONFIG, "data=1,model=1")
    state, batch = abstract_step(CONFIG, mesh, recipe, ROWS, LENGTH)
    return train_step.lower(state, batch, recipe).compile().as_text()


def numbers(shape: str) -> list[int]:
    return [int(size) for size in shape.split(",") if size]


def shapes(text: str) -> list[list[int]]:
    return [numbers(shape) for shape in re.findall(r"\b(?:f32|bf16|pred)\[([\d,]*)\]", text)]


def logits_of(text: str) -> set[int]:
    """The numbers of tokens whose scores of the whole vocabulary are in one array."""
    return {
        math.prod(shape) // VOCAB
        for shape in shapes(text)
        if VOCAB in shape and 48 not in shape and math.prod(shape) > VOCAB
    }


def test_logits_exist_for_a_chunk_at_a_time() -> None:
    assert max(logits_of(program())) == ROWS * RECIPE.loss_chunk
    whole = program(dataclasses.replace(RECIPE, loss_chunk=LENGTH))  # control
    assert max(logits_of(whole)) == ROWS * LENGTH


def kept_for_all_layers(text: str) -> list[list[int]]:
    """Shapes of what is there for each token of every layer."""
    tokens = ROWS * LENGTH
    return [
        shape
        for shape in shapes(text)
        if shape[:1] == [LAYERS] and math.prod(shape) % (LAYERS * tokens) == 0
    ]


def test_a_layer_leaves_its_input_for_its_gradient_and_nothing_else() -> None:
    """No keys, no values, no scores: 48 numbers a token."""
    kept = kept_for_all_layers(program())
    assert {math.prod(shape) for shape in kept} == {LAYERS * ROWS * LENGTH * 48}
    assert all(shape == [LAYERS, ROWS, LENGTH, 48] for shape in kept)
    more = kept_for_all_layers(program(dataclasses.replace(RECIPE, remat=False)))  # control
    assert max(math.prod(shape) for shape in more) > LAYERS * ROWS * LENGTH * 48


def products(text: str) -> list[list[int]]:
    """Shapes of the results of matrix products, in a program that is not compiled yet."""
    found = re.findall(r"dot_general .* -> tensor<([\dx]+)xf32>", text)
    return [[int(size) for size in shape.split("x")] for shape in found]


def test_lora_is_not_summed_up_and_the_frozen_have_no_gradients() -> None:
    model = GPTNeoX.init(CONFIG, stacked=True, key=jax.random.key(0))
    tuning = Tuning(lora_rank=4, lora_targets=tuple(TARGETS))
    trained, frozen = trainable(model, tuning, RECIPE)
    rows = jnp.ones((ROWS, LENGTH), jnp.int32)
    batch = Batch(rows, rows, rows.astype(jnp.float32))
    weights = ([144, 48], [48, 48], [176, 48], [48, 176])
    lowered = train_step.lower(TrainState.start(trained, RECIPE), batch, RECIPE, frozen)
    everything = train_step.lower(TrainState.start(model, RECIPE), batch, RECIPE)  # control
    assert all(weight not in products(lowered.as_text()) for weight in weights)
    assert all(weight in products(everything.as_text()) for weight in weights)
    # The gradient of the head is in the program, and compiling it takes that out.
    assert made(lowered.compile().as_text(), "320,48") == []
    assert made(program(), "320,48")


def made(text: str, shape: str) -> list[str]:
    """The operations of a compiled program that make arrays of this shape."""
    return re.findall(rf"= f32\[{shape}\]\S* (?!parameter|get-tuple|bitcast)([\w-]+)\(", text)


def weight_dtypes(recipe: Recipe) -> set[str]:
    """The dtypes in which a layer's matrices are told where to be, before they are used."""
    mesh = make_mesh(CONFIG, "data=4,model=2")
    lowered = train_step.lower(*abstract_step(CONFIG, mesh, recipe, ROWS, LENGTH), recipe)
    constraints = re.findall(
        r"sharding_constraint .*: tensor<(\d+)x(\d+)x(\w+)>", lowered.as_text()
    )
    matrices = {(144, 48), (48, 48), (176, 48), (48, 176)}
    found = [(int(m), int(n), dtype) for m, n, dtype in constraints]
    assert {(m, n) for m, n, _ in found} >= matrices
    return {dtype for m, n, dtype in found if (m, n) in matrices}


def test_weights_are_cast_before_they_are_gathered() -> None:
    assert weight_dtypes(dataclasses.replace(RECIPE, compute_dtype="bfloat16")) == {"bf16"}
    assert weight_dtypes(RECIPE) == {"f32"}  # control


def loops(text: str) -> str:
    """What a compiled program runs more than once: the computations that its loops name."""
    bodies = re.findall(r"body=%?([\w.-]+)", text)
    found = [re.search(rf"^%?{re.escape(body)} .*?^}}", text, re.M | re.S) for body in bodies]
    return "\n".join(body[0] for body in found if body)


def test_the_gradient_of_the_head_travels_once_and_not_in_each_chunk() -> None:
    mesh = make_mesh(CONFIG, "data=4,model=2")
    lowered = train_step.lower(*abstract_step(CONFIG, mesh, RECIPE, ROWS, LENGTH), RECIPE)
    text = lowered.compile().as_text()
    # Half of the vocabulary: the other is on the other devices.
    half = re.compile(rf"f32\[{VOCAB // 2},48\].* (?:all-reduce|reduce-scatter)\(")
    assert half.search(text)
    assert not half.search(loops(text))
