"""What is written for EleutherAI's code keeps to its format, as plain torch and zipfile see it."""

import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from neox_eqx.checkpoint import entry as entry_module
from neox_eqx.checkpoint.torch_file import read_states
from neox_eqx.convert.neox.write import Layout
from tests.convert.neox_checkpoints import numbered, renamed, state_dict
from tests.convert.neox_writing import LAYOUTS, model, saved, write
from tests.hf_models import config_json, hf_model


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
