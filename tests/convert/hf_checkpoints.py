"""Checkpoints of every family in Hugging Face's layout, and what the safetensors library reads."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.hf_models import FAMILIES, hf_model

DTYPES = {
    "float32": [torch.float32],
    "bfloat16": [torch.bfloat16],
    "float16": [torch.float16],
    "mixed": [torch.float32, torch.bfloat16, torch.float16],
}


def family_tensors(name: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """The tensors of a random model as its family publishes them, the head called embed_out."""
    model = hf_model(FAMILIES[name])
    tied = FAMILIES[name].get("tie_word_embeddings", False)
    kinds = itertools.cycle(DTYPES[dtype])
    return {
        name.replace("lm_head", "embed_out"): tensor.detach().to(next(kinds)).clone()
        for name, tensor in model.state_dict().items()
        if not (tied and "lm_head" in name)
    }


def write(directory: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """A directory with a config.json and these tensors, and nothing else, as many are."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def add_companions(directory: Path) -> Path:
    """Puts settings of generation and something of a tokenizer beside the tensors."""
    (directory / "generation_config.json").write_text('{"eos_token_id":0,  "odd": "spacing"}')
    (directory / "tokenizer.json").write_bytes('{"토큰": 1}\r\n'.encode())
    return directory


def write_family(directory: Path, name: str, dtype: str = "float32") -> Path:
    return write(directory, FAMILIES[name], family_tensors(name, dtype))


def raw_tensors(directory: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of all tensors, as the safetensors library reads them."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                assert name not in found
                found[name] = (tensor.dtype, tuple(tensor.shape), data)
    return found
