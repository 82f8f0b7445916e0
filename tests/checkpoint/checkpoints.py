"""Writing checkpoints in the forms in which they are found, and comparing models bit by bit."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from safetensors.torch import save_file

from neox_eqx.model.neox import GPTNeoX


def rewrite(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Puts these tensors into the directory's model.safetensors."""
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def rewrite_as_bin(directory: Path, tensors: dict[str, torch.Tensor], **options: Any) -> Path:
    """Puts these tensors into a pytorch_model.bin and removes the safetensors file."""
    (directory / "model.safetensors").unlink(missing_ok=True)
    torch.save(tensors, directory / "pytorch_model.bin", **options)
    return directory / "pytorch_model.bin"


def rewrite_as_bin_shards(directory: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Deals these tensors out to .bin shards and writes the index by hand."""
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        names = list(tensors)[shard::shards]
        torch.save({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(directory / "pytorch_model.bin.index.json", {"weight_map": weight_map})


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    write_json(path, json.loads(path.read_text()) | changes)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def assert_same_bits(ours: GPTNeoX, expected: GPTNeoX) -> None:
    """Equal trees, dtypes and bits: NaN equals itself, and -0 is not 0."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_leaves_with_path(ours)
    for (path, array), other in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert (array.dtype, array.shape) == (other.dtype, other.shape), path
        assert np.asarray(array).tobytes() == np.asarray(other).tobytes(), path
