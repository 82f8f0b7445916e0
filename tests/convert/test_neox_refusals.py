"""EleutherAI checkpoints whose files or tensors are spoilt are refused in a line."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from neox_eqx.convert.neox.read import NeoxOptions, read_neox
from tests.convert.neox_checkpoints import STEP
from tests.convert.neox_reading import checkpoint, refusal

LAYER = "layer_03-model_01-model_states.pt"
RANK = "mp_rank_01_model_states.pt"


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
    assert len(read_neox(root, NeoxOptions(row_bias="first")).entries) == 28


@pytest.mark.parametrize("key", ["iteration", "global_steps"])
def test_ranks_of_different_steps_are_named(tmp_path: Path, key: str) -> None:
    root = checkpoint().write(tmp_path / "x", "sequential")
    later = checkpoint()
    later.states = later.states | {key: 12}
    shutil.copy(later.write(tmp_path / "y", "sequential") / STEP / RANK, root / STEP / RANK)
    assert f"{RANK}: is of {key} 12, and mp_rank_00_model_states.pt of 11" in refusal(root)


@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_ranks_with_other_shapes_or_dtypes_are_named(tmp_path: Path, change: str) -> None:
    spoilt = checkpoint()
    weight = spoilt.ranks[1][3]["attention.dense.weight"]
    other = weight[:, 1:].clone() if change == "shape" else weight.half()
    spoilt.ranks[1][3]["attention.dense.weight"] = other
    message = refusal(spoilt.write(tmp_path / "x", "pipeline"))
    assert f"{LAYER}: attention.dense.weight is float" in message
    assert "the ranks must be of one step of one run" in message


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
