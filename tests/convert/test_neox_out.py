"""What is written for EleutherAI's code keeps to its format, and comes back bit for bit."""

import functools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint import entry as entry_module
from neox_eqx.checkpoint.torch_file import read_states
from neox_eqx.convert.neox_in import read_neox
from neox_eqx.convert.neox_out import Layout, write_neox
from neox_eqx.convert.source import Source, read_source
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import edit_config, rewrite
from tests.convert.neox_checkpoints import numbered, renamed, state_dict
from tests.hf_models import FAMILIES, config_json, hf_model

EIGHT_HEADS = config_json(64, 8, rotary_pct=0.25)
LAYOUTS: tuple[Layout, ...] = ("pipeline", "sequential")


@functools.cache
def model(parallel: bool, tied: bool = False) -> GPTNeoXForCausalLM:
    options = {"use_parallel_residual": parallel, "tie_word_embeddings": tied}
    return hf_model(EIGHT_HEADS | options)


def saved(directory: Path, theirs: GPTNeoXForCausalLM) -> Source:
    theirs.save_pretrained(directory)
    return read_source(directory)


def write(source: Source, directory: Path, ranks: int, layout: Layout, **options: Any) -> Path:
    directory.mkdir()
    write_neox(source, directory, tensor_parallel=ranks, layout=layout, **options)
    return directory


def bits(source: Source) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Each tensor's dtype, shape and bytes, under the one name of the head."""
    return {
        entry.name.replace("lm_head", "embed_out"): (
            entry.dtype.name,
            entry.shape,
            entry.read(tuple(slice(None) for _ in entry.shape)).tobytes(),
        )
        for entry in source.entries
    }


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_way_there_and_back_keeps_every_bit(
    tmp_path: Path, parallel: bool, tied: bool, layout: Layout, ranks: int
) -> None:
    source = saved(tmp_path / "hf", model(parallel, tied))
    back = read_neox(write(source, tmp_path / "neox", ranks, layout))
    assert bits(back) == bits(source)
    assert source.config_json.items() <= back.config_json.items()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_comes_back_or_is_refused_for_its_rope_or_activation(
    tmp_path: Path, family: str
) -> None:
    source = saved(tmp_path / "hf", hf_model(FAMILIES[family]))
    scaled = source.config_json["rope_parameters"]["rope_type"] != "default"
    if scaled:
        with pytest.raises(InputError, match="GPT-NeoX has no rope_type"):
            write(source, tmp_path / "neox", 1, "pipeline")
        return
    back = read_neox(write(source, tmp_path / "neox", 1, "pipeline"))
    assert bits(back) == bits(source)
    assert source.config_json.items() <= back.config_json.items()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_dtypes_and_odd_bits_come_back(tmp_path: Path, layout: Layout) -> None:
    """In every tensor a NaN with a payload, negative zeros and a subnormal number."""
    saved(tmp_path / "hf", model(parallel=True))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    odd = torch.tensor([0x7FA1, -0x8000, 0x0001], dtype=torch.int16)
    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    for index, (name, tensor) in enumerate(tensors.items()):
        tensor = tensor.to(dtypes[index % 3])
        if index % 3 < 2:
            tensor.view(-1)[:3] = odd.view(tensor.dtype)
        tensors[name] = tensor
    rewrite(tmp_path / "hf", tensors)
    source = read_source(tmp_path / "hf")
    back = read_neox(write(source, tmp_path / "neox", 4, layout))
    assert bits(back) == bits(source)
    assert {dtype for dtype, _, _ in bits(back).values()} == {"float16", "bfloat16", "float32"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parallel", [False, True])
def test_torch_reads_what_the_format_asks_for(
    tmp_path: Path, parallel: bool, layout: Layout, ranks: int, legacy: bool
) -> None:
    """Merged by the format's rules as upstream's converter does, it is transformers' model."""
    theirs = model(parallel)
    root = write(saved(tmp_path / "hf", theirs), tmp_path / "x", ranks, layout, legacy_names=legacy)
    step = root / (root / "latest").read_text()
    generation = "legacy" if legacy else "new"
    for number, tensors in numbered(state_dict(theirs), layers=2).items():
        parts = [_module(step, layout, number, rank) for rank in range(ranks)]
        names = {renamed(name, generation): tensor for name, tensor in tensors.items()}
        assert all(part.keys() == names.keys() for part in parts)
        for name, tensor in names.items():
            merged = _merged(name, [part[name] for part in parts], parallel)
            assert torch.equal(merged, tensor), name


def _module(step: Path, layout: Layout, number: int, rank: int) -> dict[str, torch.Tensor]:
    states = torch.load(step / f"mp_rank_{rank:02d}_model_states.pt", weights_only=True)
    if layout == "pipeline":
        assert states["module"] is None  # DeepSpeed then reads the layers' files.
        return torch.load(step / f"layer_{number:02d}-model_{rank:02d}-model_states.pt")
    prefix = f"sequential.{number}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in states["module"].items()
        if name.startswith(prefix)
    }


def _merged(name: str, parts: list[torch.Tensor], parallel: bool) -> torch.Tensor:
    if name.endswith(("attention.dense.weight", "4h_to_h.weight", "linear2.weight")):
        return torch.cat(parts, dim=1)
    if name.endswith(("attention.dense.bias", "4h_to_h.bias", "linear2.bias")):
        return sum(parts[1:], parts[0]) if parallel else parts[-1]
    return parts[-1] if "norm" in name else torch.cat(parts, dim=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_whole_archives_of_their_own_parts(tmp_path: Path, layout: Layout) -> None:
    """Checksums hold, no tensor drags the storage of a larger one along, no file is left over."""
    root = write(saved(tmp_path / "hf", model(parallel=True)), tmp_path / "x", 4, layout)
    paths = list(root.rglob("*.pt"))
    assert len(paths) == (4 if layout == "sequential" else 4 * 6)
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        loaded = torch.load(path, weights_only=True)
        for tensor in (loaded.get("module", loaded) or {}).values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    size = sum(path.stat().st_size for path in paths)
    assert size < 1.3 * (tmp_path / "hf" / "model.safetensors").stat().st_size


def test_checksum_test_is_sharp(tmp_path: Path) -> None:
    root = write(saved(tmp_path / "hf", model(parallel=True)), tmp_path / "x", 1, "sequential")
    path = next(root.rglob("*.pt"))
    weight = max(read_states(path)[0], key=lambda entry: entry.shape)
    assert isinstance(weight, entry_module.FileEntry)
    content = bytearray(path.read_bytes())
    content[weight.start] ^= 1
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None


def test_states_are_those_that_a_fresh_run_loads(tmp_path: Path) -> None:
    root = write(saved(tmp_path / "hf", model(parallel=True)), tmp_path / "x", 2, "pipeline")
    states = torch.load(root / "global_step0" / "mp_rank_01_model_states.pt", weights_only=True)
    assert (states["dp_world_size"], states["mp_world_size"], states["iteration"]) == (1, 2, 0)
    assert states["optimizer"] is None and states["lr_scheduler"] is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_describe_the_model_and_the_run(tmp_path: Path, layout: Layout) -> None:
    theirs = hf_model(
        config_json(
            48,
            4,
            rotary_pct=0.5,
            rotary_emb_base=500,
            hidden_act="gelu_fast",
            intermediate_size=100,
            layer_norm_eps=1e-6,
        )
    )
    source = saved(tmp_path / "hf", theirs.half())
    root = write(source, tmp_path / "x", 2, layout)
    settings = yaml.safe_load((root / "global_step0" / "configs" / "gpt-neox.yml").read_text())
    expected = {
        "num_layers": 2,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 100,
        "max_position_embeddings": 64,
        "pos_emb": "rotary",
        "rotary_pct": 0.5,
        "rotary_emb_base": 500,
        "gpt_j_residual": True,
        "no_weight_tying": True,
        "layernorm_epsilon": 1e-6,
        "activation": "gelu",
        "bias_gelu_fusion": True,
        "model_parallel_size": 2,
        "pipe_parallel_size": 1 if layout == "pipeline" else 0,
        "fp16": {"enabled": True},
        "finetune": True,
    }
    assert expected.items() <= settings.items()
    # A vocabulary is padded to a multiple of this times the ranks, which is to be its own size.
    assert settings["make_vocab_size_divisible_by"] * 2 == 96


def test_settings_alone_give_the_model_back(tmp_path: Path) -> None:
    """Without config.json, as upstream has it, all but the special tokens' ids follow from them."""
    theirs = hf_model(config_json(48, 4, rotary_pct=0.5, use_parallel_residual=False))
    source = saved(tmp_path / "hf", theirs)
    root = write(source, tmp_path / "x", 2, "sequential")
    (root / "config.json").unlink()
    back = read_neox(root).config_json
    untold = {"bos_token_id", "eos_token_id", "transformers_version", "classifier_dropout"}
    untold |= {"is_decoder", "use_cache"}
    assert {key: back[key] for key in source.config_json.keys() - untold} == {
        key: value for key, value in source.config_json.items() if key not in untold
    }


def test_tied_model_with_a_head_of_its_own_is_written_untied(tmp_path: Path) -> None:
    saved(tmp_path / "hf", model(parallel=True, tied=True))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    embedding = tensors["gpt_neox.embed_in.weight"]
    rewrite(tmp_path / "hf", tensors | {"embed_out.weight": embedding + 1})
    source = read_source(tmp_path / "hf")
    with pytest.warns(UserWarning, match="the stored head is used"):
        root = write(source, tmp_path / "x", 2, "pipeline")
    back = read_neox(root)
    assert bits(back) == bits(source)
    assert back.config_json["tie_word_embeddings"] is False


def test_copy_of_a_tied_embedding_is_left_out(tmp_path: Path) -> None:
    saved(tmp_path / "hf", model(parallel=True, tied=True))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    head = tensors["gpt_neox.embed_in.weight"].clone()
    rewrite(tmp_path / "hf", tensors | {"embed_out.weight": head})
    back = read_neox(write(read_source(tmp_path / "hf"), tmp_path / "x", 2, "pipeline"))
    assert "embed_out.weight" not in bits(back)


def test_no_more_than_a_block_for_each_rank_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are split by columns are read as they stand in the file, that is whole."""
    source = saved(tmp_path / "hf", model(parallel=True))
    counts = []
    read = entry_module.FileEntry._read_elements

    def watched(self: entry_module.FileEntry, first: int, count: int) -> np.ndarray:
        counts.append(count)
        return read(self, first, count)

    monkeypatch.setattr(entry_module, "BLOCK_ELEMENTS", 256)
    monkeypatch.setattr(entry_module.FileEntry, "_read_elements", watched)
    write(source, tmp_path / "x", 2, "sequential")
    assert max(counts) == 2 * 256


@pytest.mark.parametrize("ranks", [0, 3, 16])
def test_ranks_that_do_not_divide_are_refused_with_those_that_do(
    tmp_path: Path, ranks: int
) -> None:
    source = saved(tmp_path / "hf", model(parallel=True))
    expected = f"{ranks} ranks do not divide num_attention_heads 8, intermediate_size 256, "
    with pytest.raises(InputError, match=expected) as error:
        write(source, tmp_path / "x", ranks, "pipeline")
    assert str(error.value).endswith("a tensor parallelism of 1, 2, 4, 8 does")
    assert not list((tmp_path / "x").iterdir())


@pytest.mark.parametrize("activation", ["quick_gelu"])
def test_activation_that_gpt_neox_has_not_is_refused(tmp_path: Path, activation: str) -> None:
    saved(tmp_path / "hf", model(parallel=True))
    edit_config(tmp_path / "hf", hidden_act=activation)
    with pytest.raises(InputError, match=f"GPT-NeoX has no hidden_act '{activation}'"):
        write(read_source(tmp_path / "hf"), tmp_path / "x", 1, "pipeline")


def test_source_is_left_as_it_was(tmp_path: Path) -> None:
    source = saved(tmp_path / "hf", model(parallel=True))
    shutil.copytree(tmp_path / "hf", tmp_path / "copy")
    write(source, tmp_path / "x", 2, "pipeline")
    for path in (tmp_path / "hf").iterdir():
        assert path.read_bytes() == (tmp_path / "copy" / path.name).read_bytes()
    assert json.loads((tmp_path / "x" / "config.json").read_text()) == source.config_json
