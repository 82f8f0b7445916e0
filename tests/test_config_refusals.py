"""A config.json that we cannot run is refused with one line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from tests.hf_models import config_json

NAN = float("nan")


def yarn(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": {"type": "yarn", "factor": 2.0, **values}, "num_attention_heads": 3}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"model_type": "gpt_neox_japanese"}, "gpt_neox_japanese"),
    "no architecture": ({"model_type": None}, "model_type"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "unknown activation": ({"hidden_act": "gelu_10"}, "hidden_act 'gelu_10'"),
    "activation of wrong type": ({"hidden_act": ["gelu"]}, "hidden_act"),
    "longrope": ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "'longrope'"),
    "proportional": ({"rope_scaling": {"rope_type": "proportional"}}, "'proportional'"),
    "rope without its factor": ({"rope_scaling": {"type": "linear"}}, "'linear' needs factor"),
    "llama3 without bounds": (
        {"rope_scaling": {"type": "llama3", "factor": 2.0}},
        "low_freq_factor, high_freq_factor",
    ),
    "rope_scaling is a name": ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
    "rope_scaling is a list": ({"rope_scaling": [1]}, "rope_scaling"),
    "rope_parameters is a name": ({"rope_parameters": "linear"}, "rope_parameters must be an obj"),
    "rope type is a list": ({"rope_scaling": {"rope_type": ["linear"]}}, "rope_type"),
    "factor is text": ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor"),
    "factor is zero": ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
    "theta is null": ({"rotary_emb_base": None}, "rope_theta"),
    "theta is negative": ({"rotary_emb_base": -1}, "rope_theta"),
    "rotary share is text": ({"rotary_pct": "0.25"}, "partial_rotary_factor"),
    "rotary share above one": ({"rotary_pct": 1.5}, "1.5"),
    "heads do not divide": ({"num_attention_heads": 5}, "hidden_size 48 .* num_attention_heads 5"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "head too small to rotate": ({"num_attention_heads": 16, "rotary_pct": 1.0}, "rotary width 3"),
    "odd yarn": (
        {"rope_scaling": {"type": "yarn", "factor": 2.0}, "num_attention_heads": 4},
        "'yarn' needs an even rotary width, not 3",
    ),
    "narrow dynamic": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "num_attention_heads": 6},
        "'dynamic' needs a rotary width above 2, not 2",
    ),
    "size is text": ({"vocab_size": "96"}, "vocab_size"),
    "size is a fraction": ({"vocab_size": 96.0}, "vocab_size"),
    "size is true": ({"num_hidden_layers": True}, "num_hidden_layers"),
    "size is negative": ({"intermediate_size": -4}, "intermediate_size"),
    "size is too large": ({"max_position_embeddings": 10**400}, "max_position_embeddings is out"),
    "theta is too large": ({"rotary_emb_base": 10**400}, "rope_theta is out of range"),
    "theta is not a number": ({"rotary_emb_base": NAN}, "rope_theta is out of range: nan"),
    "theta does not fit float32": ({"rotary_emb_base": 1e39}, "rope_theta is out of range"),
    "rotary share is not a number": ({"rotary_pct": NAN}, "partial_rotary_factor is out"),
    "factor is infinite": (
        {"rope_scaling": {"type": "linear", "factor": float("inf")}},
        "factor is out of range: inf",
    ),
    "factor is too large": ({"rope_scaling": {"type": "linear", "factor": 10**400}}, "factor"),
    "epsilon is not a number": ({"layer_norm_eps": NAN}, "layer_norm_eps is out of range"),
    "epsilon is negative": ({"layer_norm_eps": -1.0}, "layer_norm_eps must not be below 0"),
    "yarn with a theta of 1": (yarn(rope_theta=1.0), "'yarn' needs a rope_theta above 1, not 1.0"),
    "yarn with a negative bound": (yarn(beta_fast=-1.0), "beta_fast must be above 0"),
    "yarn with the other bound": (yarn(beta_slow=-1), "beta_slow must be above 0"),
    "yarn with an odd factor": (yarn(attention_factor=NAN), "attention_factor is out of range"),
    "eos is too large": ({"eos_token_id": [1, 2**63]}, "eos_token_id is out of range"),
    "eos does not fit int32": ({"eos_token_id": 2**32 + 5}, "eos_token_id is out of range: 4294"),
    "bos does not fit int32": ({"bos_token_id": -(2**31)}, "bos_token_id is out of range: -2147"),
    "width does not fit int32": ({"hidden_size": 2**31}, "hidden_size is out of range: 2147"),
    "range does not fit float32": ({"initializer_range": 10**39}, "initializer_range is out of"),
    "flag is text": ({"use_parallel_residual": "false"}, "use_parallel_residual"),
    "flag is a number": ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    "epsilon is text": ({"layer_norm_eps": "1e-5"}, "layer_norm_eps"),
    "eos is text": ({"eos_token_id": "</s>"}, "eos_token_id"),
    "eos holds text": ({"eos_token_id": [1, "2"]}, "eos_token_id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_by_name_in_one_line(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        GPTNeoXConfig.from_hf({**config_json(), **changes})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[1]", "holds list, not a JSON object"),
        (b'{"model_type": "llama"}', "model_type is 'llama'"),
        (b'{"model_type": "gpt_neox", "vocab_size": null}', "vocab_size"),
    ],
)
def test_a_bad_file_is_named_once(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        GPTNeoXConfig.from_file(path)
    assert str(caught.value).count(str(path)) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config.json: cannot be read: No such file"):
        GPTNeoXConfig.from_file(tmp_path / "config.json")
