"""A checkpoint to convert is recognised by its files, and read without its data."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neox_eqx.convert.convert import convert
from neox_eqx.convert.read import read_source
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import rewrite, rewrite_as_bin, rewrite_as_bin_shards, write_json
from tests.convert.hf_checkpoints import add_companions, family_tensors, write_family

NAMES = ["config.json", "generation_config.json", "tokenizer.json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return add_companions(write_family(tmp_path / "source", "pythia-70m", "mixed"))


def file_names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin shards", "index of one shard"])
def test_every_form_of_hugging_faces_is_recognised(source: Path, form: str) -> None:
    tensors = family_tensors("pythia-70m", "mixed")
    files = ["config.json", "model.safetensors"]
    if form == "bin":
        rewrite_as_bin(source, tensors)
        files[1:] = ["pytorch_model.bin"]
    if form == "bin shards":
        rewrite_as_bin_shards(source, tensors, 2)
        shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
        files[1:] = [*shards, "pytorch_model.bin.index.json"]
    if form == "index of one shard":
        shard = "model-00001-of-00001.safetensors"
        (source / "model.safetensors").rename(source / shard)
        index = {"weight_map": dict.fromkeys(tensors, shard)}
        write_json(source / "model.safetensors.index.json", index)
        files[1:] = [shard, "model.safetensors.index.json"]
    found = read_source(source)
    assert found.layout == "hf"
    assert file_names(found.files) == files
    assert {entry.name: entry.dtype.name for entry in found.entries} == {
        name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
def test_each_layout_is_recognised(tmp_path: Path, source: Path, to: str) -> None:
    convert(source, tmp_path / "result", to=to, verify=False)
    found = read_source(str(tmp_path / "result"))
    assert found.layout == to
    assert list(found.companions) == NAMES[1:]
    assert all((tmp_path / "result") in path.parents for path in found.files)
    assert {entry.name for entry in found.entries} == {
        entry.name for entry in read_source(source).entries
    }


def test_hugging_faces_files_go_before_the_others(tmp_path: Path, source: Path) -> None:
    for to in ("native", "neox"):
        convert(source, tmp_path / to, to=to, verify=False)
        shutil.copytree(tmp_path / to, source, dirs_exist_ok=True)
    assert read_source(source).layout == "hf"


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "latest"])
def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"checkpoint|latest: names"):
        read_source(tmp_path)


def test_a_model_of_another_purpose_is_refused_by_its_tensor(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    rewrite(source, {**tensors, "score.weight": torch.ones(2, 64)})
    with pytest.raises(InputError, match="unexpected: score.weight"):
        read_source(source)


def test_companions_are_small_files_of_known_names(source: Path) -> None:
    for name in ("vocab.json", "merges.txt", "spiece.model", "chat_template.jinja", "x.vocab"):
        (source / name).write_text("x")
    for name in ("README.md", "training_args.bin", "certificate.json"):
        (source / name).write_text("x")
    (source / "chat_templates").mkdir()
    expected = ["chat_template.jinja", *NAMES[1:2], "merges.txt", "spiece.model", *NAMES[2:]]
    assert list(read_source(source).companions) == [*expected, "vocab.json", "x.vocab"]
