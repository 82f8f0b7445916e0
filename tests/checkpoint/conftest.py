"""A tiny checkpoint that transformers saved, for each test to spoil as it likes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPTNeoXForCausalLM

from tests.hf_models import config_json, hf_model


@pytest.fixture(scope="session")
def theirs() -> GPTNeoXForCausalLM:
    """transformers' model. Shared: do not alter it."""
    return hf_model(config_json(48, 4, num_hidden_layers=2))


@pytest.fixture(scope="session")
def saved(theirs: GPTNeoXForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    theirs.save_pretrained(directory)
    return directory


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved directory: config.json and model.safetensors."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


@pytest.fixture
def tensors(saved: Path) -> dict[str, torch.Tensor]:
    """What the checkpoint holds, under the names in the file."""
    return load_file(saved / "model.safetensors")
