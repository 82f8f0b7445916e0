"""An EleutherAI checkpoint that is spoilt, or no GPT-NeoX of Hugging Face's, is refused in a line.

Each message names the file or setting, and nothing that a pickle holds is run.
"""

import functools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.convert.neox_in import read_neox
from neox_eqx.errors import InputError
from tests.convert.neox_checkpoints import STEP, NeoX, neox
from tests.hf_models import config_json, hf_model

LAYER = "layer_03-model_01-model_states.pt"
RANK = "mp_rank_01_model_states.pt"


@functools.cache
def model(parallel: bool) -> GPTNeoXForCausalLM:
    return hf_model(config_json(48, 4, rotary_pct=0.25, use_parallel_residual=parallel))


def checkpoint(*, ranks: int = 2, parallel: bool = True) -> NeoX:
    return neox(model(parallel), ranks)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read_neox(root, **options)
    message = str(error.value)
    assert message.isprintable()
    return message


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


def test_gpt_neox_default_position_embedding_is_refused_too(tmp_path: Path) -> None:
    spoilt = checkpoint()
    del spoilt.settings["pos-emb"]
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "pos_emb 'learned' (only 'rotary')" in message


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "position_embeddings.weight"),
        (2, "input_layernorm.scale"),
        (3, "mlp.w3.weight"),
        (3, "attention.qk_layernorm.weight"),
        (4, "norm.weight"),
        (6, "rm_linear.weight"),
        (9, "word_embeddings.weight"),
    ],
)
@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_tensor_without_a_place_is_named(
    tmp_path: Path, layout: str, number: int, name: str
) -> None:
    spoilt = checkpoint()
    spoilt.ranks[1].setdefault(number, {})[name] = torch.ones(48)
    spoilt.ranks[0].setdefault(number, {})
    message = refusal(spoilt.write(tmp_path / "x", layout))
    assert re.search(rf"{re.escape(name)} in \S+_01\S*\.pt, for which .* has no place", message)


def test_head_of_its_own_in_a_tied_model_is_named(tmp_path: Path) -> None:
    spoilt = checkpoint()
    spoilt.settings["no-weight-tying"] = False
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "holds final_linear.weight in layer_06-model_00-model_states.pt" in message


class Attack:
    """Unpickled in the ordinary way it calls a function with an argument."""

    def __init__(self, function: Callable[..., Any], argument: object):
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object]]:
        return self.function, (self.argument,)


@pytest.mark.parametrize("within", ["tensors", "states", "args"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (exec, "exec"), (getattr, "getattr")],
)
def test_code_in_a_pickle_is_refused_by_name_and_not_run(
    tmp_path: Path, function: Callable[..., Any], name: str, zipped: bool, within: str
) -> None:
    mark = tmp_path / "ran"
    shell = function is os.system
    attack = Attack(function, f"touch {mark}" if shell else f"open({str(mark)!r}, 'w').close()")
    root = checkpoint().write(tmp_path / "x", "sequential")
    path = root / STEP / RANK
    states = torch.load(path, weights_only=False)
    target = states["module"] if within == "tensors" else states
    target["args" if within == "args" else "more"] = attack
    torch.save(states, path, _use_new_zipfile_serialization=zipped)
    message = refusal(root)
    assert re.search(rf"{RANK}: holds other things than named tensors \('\S*{name}'\)", message)
    assert not mark.exists()
    if function in (os.system, eval, exec):
        torch.load(path, weights_only=False)
        assert mark.exists()  # The attack is a real one.


@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_truncated_file_is_named(tmp_path: Path, layout: str) -> None:
    root = checkpoint().write(tmp_path / "x", layout)
    path = root / STEP / (LAYER if layout == "pipeline" else RANK)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(root) == f"{path}: is truncated or corrupt; get the file again"


@pytest.mark.parametrize(
    ("layout", "lost", "message"),
    [
        ("pipeline", LAYER, f"lacks {LAYER}; get the checkpoint again"),
        ("pipeline", "layer_03-model_*.pt", "lacks input_layernorm.weight in layer_03-model_00-"),
        ("pipeline", "layer_06-model_*.pt", "lacks final_linear.weight in layer_06-model_00-"),
        ("pipeline", "layer_05-model_*.pt", "lacks norm.weight in layer_05-model_00-"),
        ("pipeline", "layer_*-model_00-*.pt", "lacks layer_00-model_00-model_states.pt"),
        ("pipeline", "layer_*-model_03-*.pt", "files of 3 ranks, and model_parallel_size is 4"),
        ("sequential", "mp_rank_00_*.pt", "lacks mp_rank_00_model_states.pt"),
        ("sequential", RANK, f"lacks {RANK}; get the checkpoint again"),
        ("sequential", "mp_rank_03_*.pt", "files of 3 ranks, and model_parallel_size is 4"),
    ],
)
def test_missing_file_is_named(tmp_path: Path, layout: str, lost: str, message: str) -> None:
    root = checkpoint(ranks=4).write(tmp_path / "x", layout)
    lose = [path for path in (root / STEP).glob(lost)]
    if layout == "pipeline":
        lose += (root / STEP).glob("mp_rank*")
    for path in lose:
        path.unlink()
    assert re.search(f"{root / STEP}.*{message}", refusal(root))


def test_missing_last_rank_shows_in_the_shapes_too(tmp_path: Path) -> None:
    spoilt = checkpoint(ranks=2)
    del spoilt.settings["model-parallel-size"]
    root = spoilt.write(tmp_path / "x", "sequential")
    (root / STEP / RANK).unlink()
    message = refusal(root)
    assert "gpt_neox.layers.0.attention.query_key_value.weight is [72, 48] over all rank" in message
    assert "run.yml makes it [144, 48]" in message


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    spoilt = checkpoint()
    del spoilt.ranks[1][2]["attention.dense.bias"]
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "lacks attention.dense.bias in layer_02-model_01-model_states.pt" in message


@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_ranks_that_differ_in_what_all_have_are_named(tmp_path: Path, layout: str) -> None:
    spoilt = checkpoint()
    weight = spoilt.ranks[1][3]["input_layernorm.weight"]
    weight[7] = torch.nextafter(weight[7], torch.tensor(9.0))
    message = refusal(spoilt.write(tmp_path / "x", layout))
    assert re.search(r"_00\S*\.pt: \S*input_layernorm.weight differs from .* another rank", message)


@pytest.mark.parametrize("name", ["attention.dense.bias", "mlp.dense_4h_to_h.bias"])
def test_biases_that_differ_behind_sequential_residuals_are_named(
    tmp_path: Path, name: str
) -> None:
    spoilt = checkpoint(parallel=False)
    spoilt.ranks[1][3][name] += 1.0
    root = spoilt.write(tmp_path / "x", "pipeline")
    message = refusal(root)
    assert f"layer_03-model_00-model_states.pt: {name} differs" in message
    assert message.endswith("choose --row-bias sum or first")
    assert len(read_neox(root, row_bias="first").entries) == 28


def test_ranks_of_different_steps_are_named(tmp_path: Path) -> None:
    root = checkpoint().write(tmp_path / "x", "sequential")
    later = checkpoint()
    later.states = {"iteration": 12, "global_steps": 12}
    shutil.copy(later.write(tmp_path / "y", "sequential") / STEP / RANK, root / STEP / RANK)
    assert f"{RANK}: is of iteration 12, and mp_rank_00_model_states.pt of 11" in refusal(root)


@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_ranks_with_other_shapes_or_dtypes_are_named(tmp_path: Path, change: str) -> None:
    spoilt = checkpoint()
    weight = spoilt.ranks[1][3]["attention.dense.weight"]
    other = weight[:, 1:].clone() if change == "shape" else weight.half()
    spoilt.ranks[1][3]["attention.dense.weight"] = other
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert f"{LAYER}: attention.dense.weight is float" in message
    assert "the ranks must be of one step of one run" in message


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


@pytest.mark.parametrize("text", ["", "..", "../../etc", "/etc", "global_step99", "a\x1b\nb"])
def test_latest_that_names_no_directory_beside_it_is_refused(tmp_path: Path, text: str) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / "latest").write_text(text)
    assert refusal(root).startswith(f"{root / 'latest'}: names ")


def test_several_steps_without_latest_are_listed(tmp_path: Path) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    (root / "latest").unlink()
    (root / "global_step9").mkdir()
    assert refusal(root).endswith("give one of global_step11, global_step9 in it")


def test_experts_are_refused(tmp_path: Path) -> None:
    root = checkpoint().write(tmp_path / "x", "pipeline")
    path = root / STEP / "layer_2_expert_0_mp_rank_00_model_states.pt"
    torch.save({}, path)
    assert refusal(root).startswith(f"{path}: holds experts")


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    assert "is no EleutherAI checkpoint" in refusal(tmp_path)


def test_modules_of_another_trainer_are_refused(tmp_path: Path) -> None:
    root = checkpoint().write(tmp_path / "x", "sequential")
    torch.save({"module": {"transformer.wte.weight": torch.ones(3)}}, root / STEP / RANK)
    assert f"{RANK}: holds transformer.wte.weight, and no sequence of modules" in refusal(root)


def test_whole_numbers_for_parameters_are_refused(tmp_path: Path) -> None:
    spoilt = checkpoint(ranks=1)
    spoilt.ranks[0][5]["norm.bias"] = torch.arange(48)
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert "gpt_neox.final_layer_norm.bias is int64, not floating point" in message


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
    values = model(parallel=True).config.to_dict() | change
    type(model(parallel=True).config)(**values).to_json_file(root / "config.json")
    assert re.search(f"config.json: .*{message}", refusal(root))


def test_name_of_a_hostile_global_does_not_reach_the_terminal(tmp_path: Path) -> None:
    root = checkpoint(ranks=1).write(tmp_path / "x", "sequential")
    path = root / STEP / "mp_rank_00_model_states.pt"
    pickle = b"\x80\x02cos\x1b[2J\nsystem\n."
    stream = b"".join(_legacy_header()) + pickle
    path.write_bytes(stream)
    assert refusal(root)


def _legacy_header() -> list[bytes]:
    """What torch wrote before the pickle when its files were no archives yet."""
    import pickle

    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (0x1950A86A20F9469CFC6C, 1001, system)
    return [pickle.dumps(part, protocol=2) for part in parts]


def test_nothing_is_held_that_was_not_asked_for(tmp_path: Path) -> None:
    """The values of the large tensors are read with their part, and not before."""
    root = checkpoint().write(tmp_path / "x", "pipeline")
    source = read_neox(root)
    entry = next(entry for entry in source.entries if entry.name.endswith("dense_h_to_4h.weight"))
    whole = entry.read((slice(None), slice(None)))
    path = root / STEP / "layer_02-model_01-model_states.pt"
    path.write_bytes(path.read_bytes()[:100])
    first = entry.read((slice(0, 96), slice(None)))
    np.testing.assert_array_equal(first, whole[:96])
    with pytest.raises(InputError, match="layer_02-model_01-model_states.pt: ends within"):
        entry.read((slice(95, 97), slice(None)))
