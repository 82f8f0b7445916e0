"""A checkpoint's defaults for generation: read, checked, and honest about what is not applied."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GPTNeoXForCausalLM

from neox_eqx.checkpoint.load import load
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.text.generation_config import (
    APPLIED,
    IRRELEVANT,
    NOT_APPLIED,
    bos_token_id,
    eos_token_ids,
    read_generation_config,
    settings_file,
)
from tests.generation.completions import ours
from tests.hf_models import config_json, hf_model


def written(directory: Path, fields: Any) -> Path:
    (directory / "generation_config.json").write_text(json.dumps(fields))
    return directory


def test_a_checkpoint_without_the_file_has_no_defaults(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == {}


def test_settings_from_a_config_become_the_file_that_transformers_would_write() -> None:
    settings = {"eos_token_id": [0, 2], "max_new_tokens": 5, "repetition_penalty": 1.5}
    ((name, text),) = settings_file(settings)
    assert name == "generation_config.json"
    assert text == GenerationConfig(**settings).to_json_string(ignore_metadata=True)
    assert settings_file({"bos_token_id": 1, "eos_token_id": 2}) == []  # config.json has them


def test_every_setting_that_transformers_knows_is_applied_warned_of_or_irrelevant() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert APPLIED | NOT_APPLIED | IRRELEVANT == known
    assert not (APPLIED | NOT_APPLIED) & IRRELEVANT
    assert APPLIED & NOT_APPLIED == {"num_return_sequences"}  # as it is for beams, or not


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    ("own", "has_file"),
    [
        ({"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "min_length": 12}, False),
        ({"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "min_length": 12}, True),
        ({"num_beams": 3, "renormalize_logits": True, "suppress_tokens": [5, 6]}, False),
        ({"do_sample": True, "top_k": 1, "bad_words_ids": [[7]], "max_new_tokens": 15}, False),
        ({"exponential_decay_length_penalty": [2, 1.5], "eos_token_id": 77}, False),
    ],
)
def test_settings_in_config_json_count_where_there_is_no_other_file(
    tmp_path: Path, own: dict[str, Any], has_file: bool
) -> None:
    """The tokens are those of transformers, which also reads the directory."""
    config = {
        **config_json(32, 2, vocab_size=80, eos_token_id=3),
        "max_length": 16,
        "top_p": None,
        **own,
    }
    hf_model(config).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if has_file:
        written(tmp_path, {"eos_token_id": 3})
    prompt = [5, 6, 7, 8, 9]
    theirs = GPTNeoXForCausalLM.from_pretrained(tmp_path)
    expected = theirs.generate(torch.tensor([prompt]), pad_token_id=0)[0, len(prompt) :].tolist()
    defaults = read_generation_config(tmp_path)
    assert has_file == (own.keys().isdisjoint(defaults))
    model = load(tmp_path)
    options = GenerationOptions().resolve(defaults)
    (row, *_) = ours(
        model, [Request(tuple(prompt), options)], eos_token_ids(defaults, model.config)
    )
    assert list(row.tokens) == expected


def test_what_is_no_setting_of_generation_is_left_in_config_json(tmp_path: Path) -> None:
    config = config_json() | {"use_cache": True, "temperature": None, "presence_penalty": 1.0}
    config |= {"watermarking_config": {"bias": 2.5}, "encoder_no_repeat_ngram_size": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"config.json: sets .*watermarking_config \{'bias'"):
        defaults = read_generation_config(tmp_path)
    assert not defaults.keys() & {"use_cache", "hidden_size", "temperature", "presence_penalty"}
    assert defaults["encoder_no_repeat_ngram_size"] == 3
    nothing = GPTNeoXConfig.from_hf(config | {"bos_token_id": None})
    assert bos_token_id({}, nothing) is None


def test_what_transformers_writes_by_itself_is_read_without_a_warning(tmp_path: Path) -> None:
    config = GenerationConfig(do_sample=True, top_k=7, eos_token_id=[0, 2])
    full = {name: value for name, value in config.to_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation_config(written(tmp_path, full))["top_k"] == 7
        config.save_pretrained(tmp_path)
        assert read_generation_config(tmp_path)["eos_token_id"] == [0, 2]


def test_a_negative_eos_id_is_none(tmp_path: Path) -> None:
    config = GPTNeoXConfig(eos_token_id=2)
    for eos, expected in ((-1, ()), ([5, -1], (5,)), (None, (2,))):
        defaults = read_generation_config(written(tmp_path, {"eos_token_id": eos}))
        assert eos_token_ids(defaults, config) == expected
    assert eos_token_ids({}, GPTNeoXConfig(eos_token_id=-1)) == ()


def test_settings_that_do_nothing_are_no_reason_to_warn(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_generation_config(
            written(
                tmp_path,
                {"penalty_alpha": 0, "num_beams": 1, "constraints": [], "typical_p": 0.9},
            )
        )


def test_settings_that_are_not_applied_are_named_in_one_warning(tmp_path: Path) -> None:
    fields = {"guidance_scale": 4, "num_beams": 3, "top_p": 0.9, "forced_eos_token_id": 5}
    with pytest.warns(UserWarning) as warned:
        assert read_generation_config(written(tmp_path, fields)) == fields
    (warning,) = warned
    message = str(warning.message)
    assert "sets forced_eos_token_id 5, guidance_scale 4, which" in message
    assert "top_p" not in message and "num_beams" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id, not '</s>'"),
        ({"eos_token_id": [1, None]}, "eos_token_id must be a token id, not None"),
        ({"eos_token_id": 2**40}, "eos_token_id must be a token id, not 1099511627776"),
        ({"do_sample": "no"}, "do_sample must be true or false, not 'no'"),
        ({"eos_token_id": [0, 1.5]}, "eos_token_id must be a token id, not 1.5"),
        ({"bos_token_id": True}, "bos_token_id must be a token id, not True"),
        ([], "JSON object"),
    ],
)
def test_a_file_that_is_wrong_is_an_input_error(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_generation_config(written(tmp_path, fields))
    assert str(tmp_path / "generation_config.json") in str(raised.value)
    assert message in str(raised.value)
