"""Options come from the call, else from generation_config.json, else from transformers."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from neox_eqx.command_line import parse
from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from tests.hf_models import config_json, hf_model

FILE = dict(do_sample=True, temperature=0.7, top_k=7, top_p=0.8, min_p=0.1, max_new_tokens=9)


def resolved(defaults: dict[str, Any] | None = None, **own: Any) -> ResolvedOptions:
    return GenerationOptions(**own).resolve(defaults or {})


def test_without_anything_it_is_greedy_and_20_tokens_long() -> None:
    options = resolved()
    assert (options.temperature, options.num_samples, options.seed) == (0, 1, 0)
    assert options.new_tokens(5, 64) == 20


def test_the_file_is_used_where_the_call_is_silent() -> None:
    options = resolved(FILE)
    own = {name: value for name, value in FILE.items() if name != "do_sample"}
    assert options == ResolvedOptions(**own)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", 1.5),
        ("top_k", 0),
        ("top_p", 1.0),
        ("min_p", 0.0),
        ("max_new_tokens", 3),
    ],
)
def test_the_call_wins_over_the_file_even_where_it_says_off(name: str, value: float) -> None:
    changed = resolved(FILE, **{name: value})
    assert getattr(changed, name) == value
    others = FILE.keys() - {name, "do_sample"}
    assert all(getattr(changed, other) == FILE[other] for other in others)


@pytest.mark.parametrize("defaults", [{}, {"do_sample": True}, {"top_k": None, "do_sample": True}])
def test_sampling_takes_the_50_likeliest_and_no_other_filter(defaults: dict[str, Any]) -> None:
    options = resolved(defaults, temperature=1.0)
    assert (options.temperature, options.top_k, options.top_p, options.min_p) == (1, 50, 1, 0)
    assert GenerationConfig()._get_default_generation_params()["top_k"] == 50


def test_a_file_that_does_not_ask_to_sample_leaves_its_temperature_unused() -> None:
    assert resolved({"temperature": 0.7}).temperature == 0
    assert resolved({"temperature": 0.7, "do_sample": False}).temperature == 0
    assert resolved({"do_sample": True}).temperature == 1
    # Where only the call asks to sample, the rest of the file still holds.
    assert resolved({"top_p": 0.8}, temperature=0.5).top_p == 0.8


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ({}, {}, 20),
        ({"max_length": 12}, {}, 7),
        ({"max_length": 20}, {}, 15),
        ({"max_length": 12, "max_new_tokens": 3}, {}, 3),
        ({"max_length": 12}, {"max_new_tokens": 30}, 30),
        ({"max_new_tokens": 3}, {"max_new_tokens": 30}, 30),
        ({}, {"max_new_tokens": 1000}, 59),
        ({"max_length": 1000}, {}, 59),
    ],
)
def test_the_shortest_limit_that_wins_is_kept_within_the_context(
    defaults: dict[str, int], own: dict[str, int], expected: int
) -> None:
    prompt_length, context = 5, 64
    assert resolved(defaults, **own).new_tokens(prompt_length, context) == expected


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    "defaults", [{}, {"max_length": 12}, {"max_length": 20}, {"max_new_tokens": 3, "max_length": 9}]
)
def test_lengths_are_those_that_transformers_generates(defaults: dict[str, int]) -> None:
    model = hf_model(config_json())
    model.generation_config = GenerationConfig(**defaults, eos_token_id=10**6, pad_token_id=0)
    generated = model.generate(torch.tensor([[5, 6, 7, 8, 9]]))
    assert generated.shape[1] - 5 == resolved(defaults).new_tokens(5, 64)


def test_a_prompt_that_fills_the_context_or_max_length_says_how_long_it_is() -> None:
    assert resolved(max_new_tokens=5).new_tokens(63, 64) == 1
    for length in (64, 65, 1000):
        with pytest.raises(InputError, match=f"prompt has {length} tokens, but .* 64 positions"):
            resolved(max_new_tokens=5).new_tokens(length, 64)
    limited = {"max_length": 12}
    with pytest.raises(InputError, match="prompt has 12 tokens, but .* max_length 12; pass --max"):
        resolved(limited).new_tokens(12, 64)
    assert resolved(limited, max_new_tokens=4).new_tokens(12, 64) == 4


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_new_tokens", [1, 10**9], [0, -1]),
        ("temperature", [0, 0.0, 1, 1e9], [-0.1, math.nan]),
        ("top_k", [0, 1, 10**9], [-1]),
        ("top_p", [0, 0.5, 1], [-0.1, 1.1, math.nan]),
        ("min_p", [0, 0.5, 1.0], [-0.1, 1.1, math.nan]),
        ("num_samples", [1, 100], [0, -1]),
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("min_new_tokens", [0, 7], [-1]),
        ("min_length", [0, 7], [-1]),
        ("no_repeat_ngram_size", [0, 3], [-1]),
        ("typical_p", [0.1, 1], [0.0, 1.1, math.nan]),
        ("epsilon_cutoff", [0, 0.3, 1.0], [-0.1, 1.1]),
        ("eta_cutoff", [0, 0.3, 1.0], [-0.1, 1.1]),
        ("repetition_penalty", [0.1, 1, 9.5], [0.0, -1.0, math.inf, math.nan]),
        ("presence_penalty", [-2.0, 0, 2.0], [math.inf, math.nan]),
        ("frequency_penalty", [-2.0, 0, 2.0], [-math.inf, math.nan]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, good: list, bad: list) -> None:
    for value in good:
        assert getattr(resolved(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(InputError, match=f"^{name} must be a .*number .*, not {value}$"):
            resolved(**{name: value})


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length"])
def test_a_wrong_value_in_the_file_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} must be a whole number of at least 1, not 0$"):
        resolved({name: 0})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, " must be a number of tokens and a factor, not 3"),
        ([3], " must be a number of tokens and a factor, not"),
        ("ab", " must be a number of tokens and a factor, not 'ab'"),
        ([2.5, 1.2], " must be a whole number of at least 0, not 2.5"),
        ([2, "1"], " must be a number from 0 to 1e\\+30, not '1'"),
    ],
)
def test_a_wrong_growth_of_eos_in_the_file_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"exponential_decay_length_penalty{message}"):
        resolved({"exponential_decay_length_penalty": value})


@pytest.mark.parametrize("name", ["bad_words_ids", "suppress_tokens", "early_stopping"])
def test_a_long_value_in_the_file_is_cut_in_the_message(name: str) -> None:
    with pytest.raises(InputError, match="xxx") as told:
        GenerationOptions().resolve({"do_sample": True, name: "x" * 10_000})
    assert len(str(told.value)) < 200


def test_a_setting_that_is_no_yes_or_no_is_refused() -> None:
    with pytest.raises(InputError, match="renormalize_logits must be true or false, not 'yes'"):
        resolved({"renormalize_logits": "yes"})


PENALTIES = dict(
    repetition_penalty=1.2,
    no_repeat_ngram_size=3,
    min_length=5,
    min_new_tokens=2,
    typical_p=0.9,
    epsilon_cutoff=0.1,
    eta_cutoff=0.2,
    suppress_tokens=(4, 5),
    begin_suppress_tokens=(6,),
)


def test_the_penalties_of_the_file_have_the_names_of_transformers() -> None:
    assert PENALTIES.keys() <= vars(GenerationConfig()).keys()
    options = resolved(
        {**PENALTIES, "bad_words_ids": [[0], [1, 2]], "sequence_bias": [[[1, 2], -1.5]]}
    )
    assert {name: getattr(options, name) for name in PENALTIES} == PENALTIES
    assert options.bad_words_ids == ((0,), (1, 2))
    assert options.sequence_bias == (((1, 2), -1.5),)
    assert resolved({"stop_strings": "ab"}).stop_strings == ("ab",)
    assert resolved({"stop_strings": ["ab", "c"]}).stop_strings == ("ab", "c")


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"bad_words_ids": "no"}, "bad_words must be a list of texts or lists of token ids, not"),
        ({"bad_words_ids": [5]}, "an entry of bad_words must be a list of token ids, not 5"),
        ({"bad_words_ids": [[]]}, r"bad_words: \[\] is empty"),
        ({"bad_words_ids": [[1, -2]]}, "an entry of bad_words: -2 is not a token id, which is a"),
        ({"suppress_tokens": [1, "2"]}, "suppress_tokens: '2' is not a token id"),
        ({"suppress_tokens": 7}, "suppress_tokens must be a list of token ids, not 7"),
        ({"stop_strings": ["a", ""]}, "stop: '' is empty"),
        ({"stop_strings": ["\ud83d"]}, "stop: .* is not valid Unicode"),
        ({"sequence_bias": 3}, "sequence_bias must be an object from token ids to numbers, not 3"),
        ({"sequence_bias": [[1, 2.0]]}, "sequence_bias must be a list of token ids, not 1"),
        ({"sequence_bias": [[[1], "x"]]}, "sequence_bias: the bias of 1 must be .* not 'x'"),
        ({"sequence_bias": [[[1, 2]]]}, "is not a pair of token ids and a number"),
    ],
)
def test_a_wrong_entry_in_the_file_is_named(defaults: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolved(defaults)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"five": 1.0}, "logit_bias: 'five' is not a token id"),
        ({"1" * 5000: 1.0}, "logit_bias: '1111.* is not a token id"),
        ({"-1": 1.0}, "logit_bias: '-1' is not a token id"),
        ({"5": math.nan}, "logit_bias: the bias of 5 must be a number within .* not nan"),
        ({"5": math.inf}, "logit_bias: the bias of 5 must be a number within .* not inf"),
        ({"5": 1e39}, "logit_bias: the bias of 5 must be a number within ±1e.30, not 1e.39"),
        ({"5": 10**400}, "logit_bias: the bias of 5 must be a number within .* not 10000"),
    ],
)
def test_a_wrong_entry_of_a_bias_is_named(bias: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolved(logit_bias=bias)
    assert resolved(logit_bias={"5": -math.inf, 6: 2}).sequence_bias == (
        ((5,), -math.inf),
        ((6,), 2),
    )


def test_a_bias_for_every_token_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bias.json"
    path.write_text(json.dumps({str(id): -1.5 for id in range(50_000)}, indent=0))
    begin = time.process_time()
    options = parse(GenerationOptions, "generate.py", ["--logit-bias", str(path)])
    assert time.process_time() - begin < 5  # a minute where each entry looks for its line
    assert options.logit_bias == {id: -1.5 for id in range(50_000)}
    path.write_text('{"1": 2,\n"' + 5000 * "1" + '": 1}')
    with pytest.raises(InputError, match="line 2: '111.* is not a token id") as told:
        parse(GenerationOptions, "generate.py", ["--logit-bias", str(path)])
    assert len(str(told.value)) < 300


def test_two_numbers_of_an_option_stand_next_to_each_other_on_a_command_line() -> None:
    name = "--exponential-decay-length-penalty"
    options = parse(GenerationOptions, "generate.py", [name, "5", "1.25", "--seed", "3"])
    assert options == GenerationOptions(exponential_decay_length_penalty=(5, 1.25), seed=3)
    with pytest.raises(InputError, match=f"^{name}: 'x' is not a number"):
        parse(GenerationOptions, "generate.py", [name, "5", "x"])
