"""A recipe refuses numbers that cannot be meant, and names them."""

import dataclasses
from typing import Any

import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.update.recipe import Recipe


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"steps": 0}, "steps must be above 0, not 0"),
        ({"accumulate": 0}, "accumulate must be above 0"),
        ({"loss_chunk": -1}, "loss_chunk must be above 0"),
        ({"warmup_steps": 10}, "warmup_steps must be from 0 to below the 10 steps, not 10"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay must not be below 0"),
        ({"b2": 1.0}, "b2 must be from 0 to below 1"),
        ({"compute_dtype": "float16"}, "compute_dtype must be float32 or bfloat16, not 'float16'"),
    ],
)
def test_a_number_out_of_range_is_named(own: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**{"steps": 10, **own})


@pytest.mark.parametrize(
    "own",
    [
        {"steps": 1, "accumulate": 1, "loss_chunk": 1},
        {"warmup_steps": 9},
        {"learning_rate": 1e-9, "eps": 1e-30, "clip_norm": 1e-3},
        {"final_learning_rate": 0.0, "weight_decay": 0.0},
        {"b1": 0.0, "b2": 0.999999},
    ],
)
def test_numbers_just_within_their_range_are_taken(own: dict[str, Any]) -> None:
    assert dataclasses.asdict(Recipe(**{"steps": 10, **own})).items() >= own.items()
