"""EleutherAI settings that fit no Hugging Face model, or not the tensors, are refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.convert.neox_checkpoints import STEP
from tests.convert.neox_reading import checkpoint, refusal, small_model

UNREPRESENTABLE = [
    ("pos_emb", "alibi"),
    ("pos_emb", "learned"),
    ("norm", "rmsnorm"),
    ("norm", "scalenorm"),
    ("activation", "swiglu"),
    ("activation", "geglu"),
    ("activation", "mish"),
    ("mlp_type", "llama"),
    ("moe_num_experts", 4),
    ("num_experts", 2),
    ("use_qk_layernorm", True),
    ("sliding_window_width", 512),
    ("use_mup", True),
    ("use_bias_in_mlp", False),
    ("train_impl", "rm"),
    ("model_arch", "t5"),
    ("num_unique_layers", 1),
    ("soft_prompt_tuning", {"enabled": True, "num_tokens": 10}),
    ("attention_config", [[["mamba", "global"], 1]]),
    ("attention_config", ["rwkv", "rwkv"]),
    ("attention_config", [[["sparse_fixed"], "all"]]),
]


@pytest.mark.parametrize(("key", "value"), UNREPRESENTABLE)
def test_what_hugging_face_cannot_represent_is_refused_by_name(
    tmp_path: Path, key: str, value: object
) -> None:
    spoilt = checkpoint()
    spoilt.settings.pop(key.replace("_", "-"), None)
    spoilt.settings[key] = value
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert re.search(rf"run.yml: .*cannot represent.*{key}", message)


def test_fused_norm_with_an_epsilon_of_its_own_is_refused(tmp_path: Path) -> None:
    spoilt = checkpoint()
    spoilt.settings |= {"te_layernorm_mlp": True, "layernorm-epsilon": 1e-6}
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "te_layernorm_mlp with layernorm_epsilon 1e-06" in message


def test_gpt_neox_default_position_embedding_is_refused_too(tmp_path: Path) -> None:
    spoilt = checkpoint()
    del spoilt.settings["pos-emb"]
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "pos_emb 'learned' (only 'rotary')" in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden-size", 64, r"embed_in.weight is \[96, 48\] .* makes it \[96, 64\]"),
        ("num-layers", 3, r"num_layers is 3, and .* has 2 layers"),
        ("num-layers", 10**12, r"num_layers is 10+, and .* has 2 layers"),
        ("num-layers", None, r"num_layers is None, and .* has 2 layers"),
        ("num-attention-heads", 5, "hidden_size 48 is not a multiple of num_attention_heads 5"),
        ("intermediate_size", 128, "intermediate_size 128 contradicts .* MLP is 192 wide"),
        ("model-parallel-size", 4, "files of 2 ranks, and model_parallel_size is 4"),
        ("max-position-embeddings", None, "lacks max_position_embeddings"),
        ("rotary-pct", "all", "must be float, not 'all'"),
        ("num_kv_heads", 3, "4 heads with 3 keys and values do not divide among 2 ranks"),
        ("num_kv_heads", 2, r"has 72 rows, not the 48 of 2 queries and 1 keys"),
        ("num_kv_heads", "two", "num_kv_heads must be a number above 0, not 'two'"),
    ],
)
def test_settings_that_contradict_the_tensors_are_named(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    spoilt = checkpoint()
    spoilt.settings[key] = value
    found = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert re.search(message, found)
    assert "run.yml" in found or STEP in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num-layers: [", "bad.yml: is not valid YAML"),
        ("- 1\n- 2\n", "bad.yml: holds no settings by name"),
        ("1: 2\n", "bad.yml: holds no settings by name"),
        ("num-layers: 3\n", "num_layers is 2, and 3 in another file|num_layers is 3, and 2 in"),
        ("num-layers: 2\nnum_layers: 4\n", "bad.yml: sets num_layers twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "bad.yml: is not valid YAML"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / STEP / "configs" / "bad.yml").write_text(text)
    assert re.search(message, refusal(root))


def test_settings_are_needed(tmp_path: Path) -> None:
    """What the states of a usual run hold does not say where heads rotate."""
    spoilt = checkpoint()
    spoilt.states["args"] = {"num_layers": 2, "hidden_size": 48, "num_attention_heads": 4}
    root = spoilt.write(tmp_path / "x", "sequential")
    (root / STEP / "configs" / "run.yml").unlink()
    assert f"put the .yml files that the model was trained with into {root}" in refusal(root)


@pytest.mark.parametrize(
    "text", ["", "..", "../../etc", "/etc", "global_step99", "a\x1b\nb", "x" * 300]
)
def test_latest_that_names_no_directory_beside_it_is_refused(tmp_path: Path, text: str) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / "latest").write_text(text)
    assert refusal(root).startswith(f"{root / 'latest'}: names ")


def test_several_steps_without_latest_are_listed(tmp_path: Path) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / "latest").unlink()
    (root / "global_step9").mkdir()
    assert refusal(root).endswith("give one of global_step11, global_step9 in it")


@pytest.mark.parametrize("size", [None, 200])
def test_vocabulary_is_not_cut_blindly(tmp_path: Path, size: int | None) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    if size:
        ids = ", ".join(f'"t{index}": {index}' for index in range(size))
        (root / "tokenizer.json").write_text(f'{{"model": {{"vocab": {{{ids}}}}}}}')
    assert "the vocabulary cannot be cut without a tokenizer" in refusal(root, padded_vocab="cut")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"model": {}}',
        '{"model": {"vocab": [1]}}',
        '{"model": {"vocab": {"a": "b"}}}',
        '{"a": []}',
    ],
)
def test_tokenizer_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / "tokenizer.json").write_text(text)
    assert refusal(root).startswith(f"{root / 'tokenizer.json'}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "hidden_size 64 contradicts"),
        ({"use_parallel_residual": False}, "use_parallel_residual False contradicts"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' contradicts"),
        ({"rotary_pct": 1.0, "rope_parameters": None}, "rope_parameters .* contradicts"),
    ],
)
def test_published_config_of_another_model_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    values = small_model(parallel=True).config.to_dict() | change
    type(small_model(parallel=True).config)(**values).to_json_file(root / "config.json")
    assert re.search(f"config.json: .*{message}", refusal(root))
