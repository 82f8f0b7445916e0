"""A checkpoint's defaults for generation: read, checked, and honest about what is not applied."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.text.generation_config import eos_token_ids, read_generation_config


def written(directory: Path, fields: Any) -> Path:
    (directory / "generation_config.json").write_text(json.dumps(fields))
    return directory


def test_a_checkpoint_without_the_file_has_no_defaults(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == {}


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
