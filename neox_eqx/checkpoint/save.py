"""From a model in memory to a checkpoint directory."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from neox_eqx.checkpoint.destination import new_directory
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import Parameter, parameters
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX


def save(model: GPTNeoX, directory: str | Path) -> None:
    """Writes a checkpoint in Hugging Face's layout that transformers loads.

    Of the checkpoint that the model came from it does not keep the tensors' own dtypes, the keys
    that the config does not hold, and the tokenizer and generation files.

    `directory` must be absent or empty. It comes into being whole: an error or an interruption
    leaves nothing, and only a killed process a directory of another name.

    Raises:
        InputError: the directory holds something, or cannot be written; or the model is quantised.
    """
    if model.is_quantized:
        raise InputError("a quantised model is not saved; load it without quantize")
    with new_directory(Path(directory)) as partial:
        _write(model, partial)


def _write(model: GPTNeoX, directory: Path) -> None:
    leaves = parameters(model)
    # As the config has them: a model may carry heads of zeros, to divide over its mesh.
    shapes = model_shapes(model.config, model.dtype, stacked=model.stacked)
    leaves = [
        dataclasses.replace(leaf, shape=own.shape)
        for leaf, own in zip(leaves, parameters(shapes), strict=True)
    ]
    layout = [(name, leaf.shape, leaf.array.dtype) for leaf in leaves for name in leaf.names]
    tensors = (tensor for leaf in leaves for tensor in _tensors(leaf))
    write_tensors(directory / "model.safetensors", layout, tensors)
    dtype = model.dtype.name
    # transformers 4 reads torch_dtype, 5 reads dtype.
    config = model.config.to_hf() | {"dtype": dtype, "torch_dtype": dtype}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(leaf: Parameter) -> Iterator[np.ndarray]:
    assert isinstance(leaf.array, jax.Array)
    own = tuple(slice(size) for size in leaf.shape)
    if not leaf.stacked:
        yield np.asarray(leaf.array)[own]
        return
    for layer in range(len(leaf.names)):
        yield np.asarray(leaf.array[layer])[own]
