"""Each thing that can be wrong with a checkpoint is told in one line that names it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import (
    edit_config,
    rewrite,
    rewrite_as_bin,
    rewrite_as_bin_shards,
    write_json,
)

HEAD = "embed_out.weight"
NORM = "gpt_neox.final_layer_norm.bias"
DENSE = "gpt_neox.layers.1.attention.dense.weight"
Tensors = dict[str, torch.Tensor]


def refusal(directory: Path | str, **options: object) -> str:
    """The message with which `load` refuses, of one line."""
    with pytest.raises(InputError) as caught:
        load(directory, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_that_does_not_fit_is_named_at_once(checkpoint: Path, tensors: Tensors) -> None:
    del tensors[NORM], tensors[HEAD]
    tensors[DENSE] = tensors[DENSE][:7].clone()
    tensors["gpt_neox.layers.2.mlp.dense_h_to_4h.bias"] = torch.zeros(4)
    tensors["score.weight"] = torch.zeros(2, 48)
    tensors["gpt_neox.embed_in.weight"] = torch.zeros(96, 48, dtype=torch.int8)
    rewrite(checkpoint, tensors)
    message = refusal(checkpoint)
    assert message.startswith(f"{checkpoint}: ")
    parts = [part.strip() for part in message.split(";")[1:]]
    assert parts == [
        f"missing: {NORM}, {HEAD} (tie_word_embeddings is false)",
        "unexpected: gpt_neox.layers.2.mlp.dense_h_to_4h.bias, score.weight",
        f"of the wrong shape: {DENSE} [7, 48], not [48, 48]",
        "not floating point: gpt_neox.embed_in.weight int8",
    ]


def test_shapes_are_checked_before_anything_is_allocated(checkpoint: Path) -> None:
    edit_config(checkpoint, vocab_size=10**9)  # 200 TB, which could not be allocated
    message = refusal(checkpoint)
    assert "gpt_neox.embed_in.weight [96, 48], not [1000000000, 48]" in message
    assert "embed_out.weight [96, 48]" in message


def test_layers_that_lack_the_same_are_named_in_one(checkpoint: Path, tensors: Tensors) -> None:
    edit_config(checkpoint, num_hidden_layers=15, hidden_size=96)
    norms = ["input_layernorm.weight", "input_layernorm.bias", "post_attention_layernorm.weight"]
    tensors = {
        f"gpt_neox.layers.{layer}.{norm}": torch.zeros(96) for layer in range(15) for norm in norms
    } | {NORM: torch.zeros(96)}
    for layer in (0, 2, 3, 4, 13):
        del tensors[f"gpt_neox.layers.{layer}.{norms[0]}"]
    tensors[f"gpt_neox.layers.7.{norms[1]}"] = torch.zeros(5)
    for layer in (8, 9):
        tensors[f"gpt_neox.layers.{layer}.{norms[2]}"] = torch.zeros(layer)
    rewrite(checkpoint, tensors)
    message = refusal(checkpoint)
    assert "missing: gpt_neox.embed_in.weight, gpt_neox.layers.{0,2-4,13}." + norms[0] in message
    assert ", gpt_neox.layers.{0-14}.attention.dense.weight" in message and " more; " in message
    assert message.endswith(
        f"of the wrong shape: gpt_neox.layers.7.{norms[1]} [5], not [96], "
        f"gpt_neox.layers.8.{norms[2]} [8], not [96], gpt_neox.layers.9.{norms[2]} [9], not [96]"
    )
    assert len(message) - len(str(checkpoint)) < 1000


def test_absurd_number_of_layers_is_refused_at_once(checkpoint: Path) -> None:
    edit_config(checkpoint, num_hidden_layers=10**9)
    assert refusal(checkpoint).endswith("1000000000 layers and only 28 tensors")


def test_untied_model_without_head_is_refused(checkpoint: Path, tensors: Tensors) -> None:
    del tensors[HEAD]
    rewrite(checkpoint, tensors)
    assert "missing: embed_out.weight (tie_word_embeddings is false)" in refusal(checkpoint)


def test_two_names_for_one_parameter_are_refused(checkpoint: Path, tensors: Tensors) -> None:
    rewrite(checkpoint, tensors | {"lm_head.weight": tensors[HEAD].clone()})
    message = refusal(checkpoint)
    assert HEAD in message and "lm_head.weight" in message and "the same parameter" in message


def test_directory_without_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "has no weights; expected one of model.safetensors, " in refusal(checkpoint)


def test_files_that_only_the_index_has_are_named(checkpoint: Path, tensors: Tensors) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {name: shards[number % 2] for number, name in enumerate(tensors)}
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": weight_map})
    (checkpoint / "model.safetensors").unlink()
    lacks = f"{checkpoint}: lacks files that its index names: "
    assert refusal(checkpoint) == lacks + ", ".join(shards)
    (checkpoint / shards[0]).touch()
    assert refusal(checkpoint) == lacks + shards[1]


def test_directory_without_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert str(checkpoint / "config.json") in refusal(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_config_that_is_not_json(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_bytes(text.encode("latin-1"))
    assert str(checkpoint / "config.json") in refusal(checkpoint)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "mish"}, "'mish'"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        ({"model_type": "gpt_neox_japanese"}, "'gpt_neox_japanese'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_unsupported_config_names_the_file_and_the_value(
    checkpoint: Path, changes: dict, named: str
) -> None:
    edit_config(checkpoint, **changes)
    message = refusal(checkpoint)
    assert named in message and str(checkpoint / "config.json") in message


@pytest.mark.parametrize(
    "file",
    [
        *["../model.bin", "/etc/passwd", "sub/model.bin", "..", "sub\\model.bin", "C:model.bin"],
        *["", "x" * 256, "모" * 86, "a\nb", "\x1b[2J"],
    ],
    ids=ascii,
)
def test_index_names_only_what_can_be_beside_it(
    checkpoint: Path, tensors: Tensors, file: str
) -> None:
    rewrite_as_bin_shards(checkpoint, tensors, shards=2)
    index = checkpoint / "pytorch_model.bin.index.json"
    write_json(index, {"weight_map": {NORM: file, HEAD: "pytorch_model-00001-of-00002.bin"}})
    cut = f"{file!r:.80}" + "..." * (len(file) > 80)
    assert refusal(checkpoint) == f"{index}: names what cannot be a file beside it: {cut}"


@pytest.mark.parametrize("name", ["a\nb.weight", "\x1b[2J.weight", "x" * 1000 + "\0"])
@pytest.mark.parametrize("file", ["safetensors", "bin", "index"])
def test_name_that_cannot_be_printed_is_shown_in_escapes(
    checkpoint: Path, tensors: Tensors, name: str, file: str
) -> None:
    if file == "safetensors":
        rewrite(checkpoint, tensors | {name: torch.zeros(3)})
    elif file == "bin":
        rewrite_as_bin(checkpoint, tensors | {name: torch.zeros(3)})
    else:
        (checkpoint / "model.safetensors").rename(checkpoint / "a.safetensors")
        write_json(
            checkpoint / "model.safetensors.index.json", {"weight_map": {name: "a.safetensors"}}
        )
    message = refusal(checkpoint)
    assert message.isprintable() and len(message) < 300
    cut = f"{name!r:.80}" + "..." * (len(name) > 80)
    assert f": {cut} cannot be a tensor's name; get the file again" in message


def test_missing_shards_are_all_named(checkpoint: Path, tensors: Tensors) -> None:
    rewrite_as_bin_shards(checkpoint, tensors, shards=3)
    lost = ["pytorch_model-00001-of-00003.bin", "pytorch_model-00003-of-00003.bin"]
    for file in lost:
        (checkpoint / file).unlink()
    assert refusal(checkpoint).endswith(", ".join(lost))


def test_tensor_that_only_the_index_has_is_named(checkpoint: Path, tensors: Tensors) -> None:
    rewrite_as_bin_shards(checkpoint, tensors, shards=2)
    shard = "pytorch_model-00001-of-00002.bin"
    held = torch.load(checkpoint / shard)
    torch.save(
        {name: t for name, t in held.items() if name != next(iter(held))}, checkpoint / shard
    )
    assert refusal(checkpoint).endswith(f"{next(iter(held))} in {shard}")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_index_without_weight_map(checkpoint: Path, index: dict) -> None:
    (checkpoint / "model.safetensors").unlink()
    write_json(checkpoint / "model.safetensors.index.json", index)
    assert "model.safetensors.index.json: has no weight_map" in refusal(checkpoint)


def cut(length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:length]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "spoil",
    [cut(0), cut(1), cut(100), cut(-1), cut(-5000), lambda content: b"\0" * len(content)],
    ids=["empty", "one byte", "the beginning", "one byte less", "a bit less", "zeros"],
)
def test_spoiled_bin_file(
    checkpoint: Path, tensors: Tensors, spoil: Callable[[bytes], bytes], zipped: bool
) -> None:
    path = rewrite_as_bin(checkpoint, tensors, _use_new_zipfile_serialization=zipped)
    path.write_bytes(spoil(path.read_bytes()))
    assert str(path) in refusal(checkpoint)


class Intruder:
    """Unpickled without care, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_holds_code_is_refused_and_not_run(
    checkpoint: Path, tensors: Tensors, tmp_path: Path, zipped: bool
) -> None:
    content = tensors | {"extra": Intruder(tmp_path / "intruded")}
    path = rewrite_as_bin(checkpoint, content, _use_new_zipfile_serialization=zipped)
    message = refusal(checkpoint)
    assert message.startswith(f"{path}: holds other things than named tensors")
    assert not (tmp_path / "intruded").exists()
    torch.load(path, weights_only=False)  # What would have happened.
    assert (tmp_path / "intruded").exists()


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(3)], {"epoch": 3}, {0: torch.zeros(3)}, {"a": torch.eye(3).to_sparse()}],
    ids=["list", "number", "unnamed", "sparse"],
)
def test_pickle_without_named_tensors(checkpoint: Path, content: object) -> None:
    path = rewrite_as_bin(checkpoint, content)
    assert refusal(checkpoint).startswith(f"{path}: holds other things than named tensors")


@pytest.mark.parametrize("dtype", ["int8", "float64", "nonsense"])
def test_unsupported_target_dtype(checkpoint: Path, dtype: str) -> None:
    message = refusal(checkpoint, dtype=dtype)
    assert re.search(f"dtype '{dtype}' is not supported; it is one of float32", message)


def test_path_that_is_no_directory(checkpoint: Path, tmp_path: Path) -> None:
    assert "is a file; give the directory" in refusal(checkpoint / "config.json")
    assert "no such directory" in refusal(tmp_path / "absent")
    assert "no such directory" in refusal("./absent")
    assert "neither a directory nor a Hub id" in refusal("a/b/c")
    of_directory = f"{checkpoint}: is a directory, and has no revision 'step3000'"
    assert refusal(f"{checkpoint}@step3000") == of_directory


def test_name_that_cannot_be_a_path_is_refused() -> None:
    assert refusal("x" * 5000).endswith("xxx: cannot be a directory: File name too long")
    assert len(refusal("x" * 5000)) < 200
    assert "the model's name is empty" in refusal("")
    assert "neither a directory nor a Hub id" in refusal("a\0b")
