"""What a run leaves goes on as its checkpoint said."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.origin import find
from neox_eqx.training.run.result import save_result
from tests.hf_models import config_json, hf_model


@pytest.mark.parametrize("own", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
def test_settings_of_generation_in_config_json_go_with_the_result(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    source = tmp_path / "source"
    config = config_json(32, 2, vocab_size=80, eos_token_id=3)
    hf_model(config).save_pretrained(source)
    (source / "generation_config.json").unlink()
    (source / "config.json").write_text(json.dumps({**config, **own}))
    save_result(load(source), None, tmp_path, source=find(source))
    assert (tmp_path / "hf/generation_config.json").exists() == bool(own)
    if own:
        theirs = GenerationConfig.from_pretrained(tmp_path / "hf").to_dict()
        assert {name: theirs[name] for name in own} == own and theirs["eos_token_id"] == 3
