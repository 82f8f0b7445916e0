"""What an EleutherAI run was configured as becomes the config.json of the same model."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import pytest

from neox_eqx.convert.neox.read import NeoxOptions, read_neox
from tests.checkpoint.checkpoints import write_json
from tests.convert.neox_checkpoints import neox, state_dict
from tests.convert.neox_reading import assert_same_bits, assert_same_logits, eight_heads, read
from tests.hf_models import config_json, hf_model

TOKENIZERS: dict[str, dict[str, Any]] = {
    "tokenizer.json": {
        "model": {"type": "BPE", "vocab": {f"t{index}": index for index in range(80)}},
        "added_tokens": [{"id": 82, "content": "<|endoftext|>"}, {"id": 81, "content": "<|pad|>"}],
    },
    "gpt2-vocab.json": {"<|endoftext|>": 82, **{f"t{index}": index for index in range(82)}},
}


@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
@pytest.mark.parametrize("tied", [False, True])
def test_padding_of_the_vocabulary_is_cut_on_request(
    tmp_path: Path, tied: bool, tokenizer: str
) -> None:
    theirs = eight_heads(parallel=False, tied=tied)
    checkpoint = neox(theirs, ranks=4)
    checkpoint.settings["vocab-file"] = f"/somewhere/else/{tokenizer}"
    root = checkpoint.write(tmp_path / "x", "pipeline")
    write_json(root / tokenizer, TOKENIZERS[tokenizer])
    expected = state_dict(theirs)

    kept = read_neox(root)
    assert kept.config_json["vocab_size"] == 96
    assert_same_bits(read(kept), expected)
    cut = read_neox(root, NeoxOptions(padded_vocab="cut"))
    assert cut.config_json["vocab_size"] == 83
    for name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
        expected |= {name: expected[name][:83].clone()} if name in expected else {}
    assert_same_bits(read(cut), expected)
    for source in (kept, cut):
        assert (source.config_json["bos_token_id"], source.config_json["eos_token_id"]) == (82, 82)
    assert list(kept.companions) == ["tokenizer.json"][: "gpt2" not in tokenizer]


def test_gpt_neox_has_defaults_of_its_own(tmp_path: Path) -> None:
    """Whole heads rotate, residuals are sequential and the head is the embedding."""
    theirs = hf_model(
        config_json(48, 4, rotary_pct=1.0, use_parallel_residual=False, tie_word_embeddings=True)
    )
    checkpoint = neox(theirs)
    for key in ("rotary-pct", "gpt-j-residual", "no-weight-tying", "layernorm-epsilon", "norm"):
        del checkpoint.settings[key]
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    assert_same_logits(source, theirs)


def test_settings_are_spelled_in_any_way_and_spread_over_files(tmp_path: Path) -> None:
    """With hyphens or underscores, and numbers that YAML 1.1 takes for texts."""
    theirs = hf_model(config_json(48, 4, rotary_pct=0.5, rotary_emb_base=500, layer_norm_eps=1e-6))
    checkpoint = neox(theirs)
    del checkpoint.settings["layernorm-epsilon"]
    root = checkpoint.write(tmp_path / "x", "pipeline")
    (root / "configs").mkdir()
    run = root / "global_step11" / "configs" / "run.yml"
    run.rename(root / "configs" / "run.yml")
    run.parent.rmdir()
    more = '{\n  "layernorm-epsilon": 1e-6, # a comment\n  "rotary_emb_base": 5e2,\n}\n'
    (root / "configs" / "more.yaml").write_text(more)
    (root / "configs" / "README.md").write_text("no settings")
    source = read_neox(root)
    assert source.config_json["layer_norm_eps"] == 1e-6
    assert_same_logits(source, theirs)


def test_position_count_is_not_the_sequence_length(tmp_path: Path) -> None:
    checkpoint = neox(eight_heads(parallel=True))
    checkpoint.settings["seq-length"] = 32
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    assert source.config_json["max_position_embeddings"] == 64


@pytest.mark.parametrize(
    ("activation", "fused", "option", "expected"),
    [
        ("gelu", False, "gelu_fast", "gelu"),
        ("gelu", True, "gelu", "gelu"),
        ("gelu", True, "gelu_fast", "gelu_fast"),
        ("relu", True, "gelu_fast", "relu"),
        ("swish", False, "gelu", "silu"),
    ],
)
def test_activation_follows_the_settings(
    tmp_path: Path,
    activation: str,
    fused: bool,
    option: Literal["gelu", "gelu_fast"],
    expected: str,
) -> None:
    checkpoint = neox(eight_heads(parallel=True))
    checkpoint.settings |= {"activation": activation, "bias-gelu-fusion": fused}
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"), NeoxOptions(fused_gelu=option))
    assert source.config_json["hidden_act"] == expected


@pytest.mark.parametrize("stored", [True, False])
def test_one_norm_for_both_branches_becomes_two_that_are_equal(
    tmp_path: Path, stored: bool
) -> None:
    """With gpt_j_tied the second norm of a layer may be stored, but nothing uses it."""
    theirs = hf_model(config_json(48, 4, rotary_pct=0.25, use_parallel_residual=True))
    for layer in theirs.gpt_neox.layers:
        layer.post_attention_layernorm.load_state_dict(layer.input_layernorm.state_dict())
    checkpoint = neox(theirs, ranks=2)
    checkpoint.settings["gpt_j_tied"] = True
    for modules in checkpoint.ranks:
        for number in (2, 3):
            for kind in ("weight", "bias"):
                name = f"post_attention_layernorm.{kind}"
                modules[number][name].fill_(7.0)
                if not stored:
                    del modules[number][name]
    assert_same_logits(read_neox(checkpoint.write(tmp_path / "x", "pipeline")), theirs)


def test_settings_that_the_states_hold_are_enough(tmp_path: Path) -> None:
    theirs = eight_heads(parallel=True)
    checkpoint = neox(theirs)
    settings = {key.replace("-", "_"): value for key, value in checkpoint.settings.items()}
    checkpoint.states["args"] = Namespace(**settings)
    root = checkpoint.write(tmp_path / "x", "sequential")
    (root / "global_step11" / "configs" / "run.yml").unlink()
    assert_same_logits(read_neox(root), theirs)


def test_a_step_is_found_from_above_and_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = neox(eight_heads(parallel=True)).write(tmp_path / "x", "pipeline")
    (root / "tokenizer.json").write_text("{}")
    source = read_neox(root)
    assert source.layout == "neox"
    assert read_neox(root / "global_step11") == source
    monkeypatch.chdir(root / "global_step11")
    assert read_neox(Path(".")).companions == source.companions
    assert {path.name for path in source.files} >= {"run.yml", "layer_00-model_00-model_states.pt"}
    (root / "latest").unlink()
    assert read_neox(root).files == source.files
    (root / "global_step12").mkdir()
    (root / "latest").write_text("global_step11\n")
    assert read_neox(root) == source


def test_a_published_config_tells_what_settings_do_not(tmp_path: Path) -> None:
    theirs = hf_model(
        config_json(48, 4, rotary_pct=0.25, hidden_act="gelu_fast", eos_token_id=[0, 3])
    )
    checkpoint = neox(theirs)
    checkpoint.settings["bias_gelu_fusion"] = True
    root = checkpoint.write(tmp_path / "x", "pipeline")
    theirs.config.to_json_file(root / "config.json")
    source = read_neox(root)
    assert source.config_json["hidden_act"] == "gelu_fast"
    assert source.config_json["eos_token_id"] == [0, 3]
    assert_same_logits(source, theirs)
