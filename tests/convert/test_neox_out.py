"""What is written for EleutherAI's code comes back bit for bit, or is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from neox_eqx.checkpoint import entry as entry_module
from neox_eqx.convert.neox.read import read_neox
from neox_eqx.convert.neox.write import STEP, Layout
from neox_eqx.convert.read import read_source
from neox_eqx.convert.source import Source
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import edit_config, rewrite
from tests.convert.neox_writing import LAYOUTS, model, saved, write
from tests.hf_models import FAMILIES, config_json, hf_model


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


def test_settings_begin_with_the_shape_of_the_model_and_end_with_the_run(tmp_path: Path) -> None:
    root = write(saved(tmp_path / "hf", model(parallel=True)), tmp_path / "x", 2, "pipeline")
    settings = yaml.safe_load((root / STEP / "configs" / "gpt-neox.yml").read_text("utf-8"))
    names = list(settings)
    assert names[:3] == ["num_layers", "hidden_size", "num_attention_heads"]
    assert names[-1] == "finetune" and settings["finetune"] is True
    of_run = ["model_parallel_size", "pipe_parallel_size", "make_vocab_size_divisible_by"]
    assert names[-4:-1] == of_run and [settings[name] for name in of_run] == [2, 1, 48]


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
