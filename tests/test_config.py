"""A config.json means to us what it means to transformers."""

import dataclasses
import json
import random
from typing import Any

import pytest

from neox_eqx.config import ACTIVATIONS, GPTNeoXConfig
from neox_eqx.rope import ROPE_TYPES, RopeParameters
from tests.hf_models import FAMILIES, config_json, hf_config

_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def drawn_config(seed: int) -> dict[str, Any]:
    """A config.json with any mixture of old, new, doubled and absent keys."""
    draw = random.Random(seed)

    def maybe(**choices: list[Any]) -> dict[str, Any]:
        return {key: draw.choice(values) for key, values in choices.items() if draw.random() < 0.5}

    def rope() -> dict[str, Any]:
        kind = draw.choice(ROPE_TYPES)
        values = {draw.choice(["rope_type", "type"]): kind}
        if kind != "default":
            values["factor"] = draw.choice([2, 4.0])
        if kind == "llama3":
            values |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        if kind in ("llama3", "yarn"):
            values |= maybe(original_max_position_embeddings=[32, 64])
        if kind == "yarn":
            values |= maybe(
                **dict(beta_fast=[16.0], beta_slow=[2], attention_factor=[0.8]),
                **dict(mscale=[0.7], mscale_all_dim=[1.2], truncate=[False, True]),
            )
        return values | maybe(rope_theta=[500.0, 20000], partial_rotary_factor=[0.5, 1.0])

    return config_json(
        64,
        2,
        **maybe(
            rope_scaling=[None, {}, rope()],
            rope_parameters=[None, {}, rope()],
            rotary_pct=[0.5, 1.0, 0.125],
            rotary_emb_base=[10000, 25000.0],
            rope_theta=[7.0],
            partial_rotary_factor=[0.75],
            original_max_position_embeddings=[16],
            use_parallel_residual=[False, True],
            attention_bias=[False, True],
            tie_word_embeddings=[True, False],
            hidden_act=list(ACTIVATIONS),
            layer_norm_eps=[1e-6, 1e-12],
            hidden_dropout=[0.1],
            attention_dropout=[0.2],
            bos_token_id=[None, 3],
            eos_token_id=[None, 1, [1, 2]],
            pad_token_id=[None, 1],
            layer_norm_epsilon=[0.5],
            num_steps=["global_step301000"],
            temperature=[0.3],
        ),
    )


def assert_same_meaning(ours: GPTNeoXConfig, values: dict[str, Any]) -> None:
    """Every field is what transformers makes of the values, those of the embedding included."""
    theirs = hf_config(values)
    # Its rotary embedding looks at the config again, and only then at some top-level keys.
    theirs.standardize_rope_params()
    for field in dataclasses.fields(GPTNeoXConfig):
        if field.name != "rope_parameters":
            value = getattr(ours, field.name)
            value = list(value) if isinstance(value, tuple) else value
            assert value == getattr(theirs, field.name), field.name
    expected = {k: v for k, v in theirs.rope_parameters.items() if k != "type"}
    assert {"truncate": True, **ours.rope_parameters.to_hf()} == {"truncate": True, **expected}


@pytest.mark.parametrize("seed", range(60))
def test_any_mixture_of_keys_means_what_it_means_to_transformers(seed: int) -> None:
    values = drawn_config(seed)
    ours = GPTNeoXConfig.from_hf(values)
    assert_same_meaning(ours, values)

    # Written out, both readers still understand the same.
    written = json.loads(json.dumps(ours.to_hf()))
    assert GPTNeoXConfig.from_hf(written) == ours
    assert_same_meaning(ours, written)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_survives_the_round_trip(name: str) -> None:
    ours = GPTNeoXConfig.from_hf(FAMILIES[name])
    assert_same_meaning(ours, FAMILIES[name])
    assert_same_meaning(ours, ours.to_hf())
    assert GPTNeoXConfig.from_hf(ours.to_hf()) == ours


def test_absent_keys_have_the_defaults_of_transformers() -> None:
    values = {"model_type": "gpt_neox"}
    assert GPTNeoXConfig.from_hf(values) == GPTNeoXConfig()
    assert_same_meaning(GPTNeoXConfig(), values)


def rope(**values: Any) -> RopeParameters:
    return GPTNeoXConfig.from_hf(config_json(**values)).rope_parameters


def test_nested_rope_keys_win_over_the_old_ones() -> None:
    nested = {"rope_theta": 500.0, "partial_rotary_factor": 0.5}
    read = rope(rope_parameters=nested, rotary_emb_base=7.0, rotary_pct=1.0)
    assert read == RopeParameters(rope_theta=500.0, partial_rotary_factor=0.5)


def test_rope_scaling_wins_over_rope_parameters_unless_it_is_empty() -> None:
    linear = {"type": "linear", "factor": 2.0}
    assert rope(rope_scaling=linear, rope_parameters={"rope_theta": 5.0}) == RopeParameters(
        rope_type="linear", factor=2.0
    )
    for nothing in (None, {}):
        assert rope(rope_scaling=nothing, rope_parameters={"rope_theta": 5.0}).rope_theta == 5.0


def test_rope_type_wins_over_type() -> None:
    both = {"type": "linear", "rope_type": "dynamic", "factor": 2.0}
    assert rope(rope_scaling=both).rope_type == "dynamic"


def test_top_level_rope_theta_and_partial_rotary_factor_are_not_read() -> None:
    assert rope(rope_theta=7.0, partial_rotary_factor=1.0) == RopeParameters()


def test_original_length_is_the_trained_one_where_it_is_not_given() -> None:
    assert rope(rope_scaling=_LLAMA3).original_max_position_embeddings == 64
    assert (
        rope(rope_scaling={"type": "linear", "factor": 2}).original_max_position_embeddings is None
    )


def test_reading_does_not_alter_the_object() -> None:
    values = config_json(
        rope_scaling={"type": "llama3", **_LLAMA3}, rotary_pct=1.0, eos_token_id=[0, 1]
    )
    before = json.dumps(values)
    GPTNeoXConfig.from_hf(values)
    assert json.dumps(values) == before


def test_a_list_of_eos_ids_is_kept() -> None:
    ours = GPTNeoXConfig.from_hf(config_json(eos_token_id=[0, 7]))
    assert ours.eos_token_ids == (0, 7)
    assert ours.to_hf()["eos_token_id"] == [0, 7]
    assert hash(ours) == hash(dataclasses.replace(ours))
    assert GPTNeoXConfig(eos_token_id=5).eos_token_ids == (5,)
    assert GPTNeoXConfig(eos_token_id=None).eos_token_ids == ()


def test_keys_of_transformers_4_are_written_beside_those_of_5() -> None:
    values = config_json(rotary_pct=0.5, rotary_emb_base=20000)
    written = GPTNeoXConfig.from_hf(values).to_hf()
    assert (written["rotary_pct"], written["rotary_emb_base"]) == (0.5, 20000)
    assert written["rope_scaling"] is None


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_scaling_is_written_as_transformers_4_takes_it(kind: str, key: str) -> None:
    """4.44: a type that it knows, a factor that is a float, and nothing else."""
    scaling = {"rope_type": kind, "factor": 2, "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    values = config_json(64, 2, **{key: scaling})
    written = json.loads(json.dumps(GPTNeoXConfig.from_hf(values).to_hf()))
    assert set(written["rope_scaling"]) == {"type", "factor"}
    assert written["rope_scaling"]["type"] == kind
    assert type(written["rope_scaling"]["factor"]) is float
    assert (written["rotary_emb_base"], written["rotary_pct"]) == (500.0, 0.5)
    # transformers 5 finds the same in it as in the original.
    assert_same_meaning(GPTNeoXConfig.from_hf(values), written)
    assert GPTNeoXConfig.from_hf(written) == GPTNeoXConfig.from_hf(values)


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 64),
        ({"rope_type": "default", "factor": 4.0}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({**_LLAMA3, "original_max_position_embeddings": 4}, 64),
        ({**_LLAMA3, "original_max_position_embeddings": 32}, 256),
    ],
)
def test_context_length_is_the_trained_one_times_the_factor(scaling: Any, length: int) -> None:
    assert GPTNeoXConfig.from_hf(config_json(rope_scaling=scaling)).context_length == length


def test_a_whole_number_that_stands_for_a_float_becomes_one() -> None:
    config = GPTNeoXConfig.from_hf({"model_type": "gpt_neox", "initializer_range": 2**32})
    assert type(config.initializer_range) is float and config.initializer_range == 2.0**32
