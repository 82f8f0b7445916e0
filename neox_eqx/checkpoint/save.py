"""From a model in memory to a checkpoint directory."""

import json
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import Parameter, parameters
from neox_eqx.checkpoint.origin import copy_companions, stored_as
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.destination import new_directory
from neox_eqx.errors import InputError
from neox_eqx.model.formats import is_quantized
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.distributed import is_first

Companion = str | Path | tuple[str, str]
"""A file to copy, or the name and the text of one to write."""


def save(
    model: GPTNeoX, directory: str | Path, companions: Iterable[Companion] | None = None
) -> None:
    """Writes a checkpoint in Hugging Face's layout that transformers loads.

    A model knows no tokenizer: its files, and generation_config.json, are `companions` to copy
    beside it, and `TextGenerator.save` copies those that it was loaded with. Warns where none are
    given; `()` says that there are to be none. config.json has no keys that the config does not
    hold. On several hosts all processes call this and the first writes.

    All tensors get one dtype: that in which the matrices are held, if they all have it and the
    biases and norms are the same numbers in it, and else the model's.

    `directory` must be absent or empty. It comes into being whole: an error or an interruption
    leaves nothing, and only a killed process a hidden directory, which the next one removes.

    Raises:
        InputError: the directory holds something, or cannot be written; or the model is quantised.
    """
    if is_quantized(model):
        raise InputError("a quantised model is not saved; load it without quantize")
    if not is_first():
        deque(_tensors(model), maxlen=0)  # which the first process cannot gather alone
        return
    write(model.config, _parameters(model), _tensors(model), Path(directory), companions or ())
    if companions is None:
        warnings.warn(
            f"{directory}: is saved without a tokenizer; TextGenerator.save writes it too, or name "
            "its files as companions (companions=() for none)",
            stacklevel=2,
        )


def write(
    config: GPTNeoXConfig,
    leaves: Sequence[Parameter],
    tensors: Iterable[np.ndarray],
    directory: Path,
    companions: Iterable[Companion],
) -> None:
    """As `save`, with parameters of one dtype, whose tensors come one at a time in their order."""
    layout = [(name, leaf.shape, leaf.array.dtype) for leaf in leaves for name in leaf.names]
    dtype = leaves[0].array.dtype.name
    # transformers 4 reads torch_dtype, 5 reads dtype.
    values = config.to_hf() | {"dtype": dtype, "torch_dtype": dtype}
    with new_directory(directory) as partial:
        for companion in companions:
            if isinstance(companion, tuple):
                name, text = companion
                (partial / name).write_text(text, encoding="utf-8")
            else:
                copy_companions({stored_as(Path(companion)): Path(companion)}, partial)
        write_tensors(partial / "model.safetensors", layout, tensors)
        text = json.dumps(values, indent=2) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")


def _parameters(model: GPTNeoX) -> list[Parameter]:
    """What is to be stored, with the config's heads.

    A model may have more heads, of zeros, that divide over its mesh.
    """
    return parameters(model_shapes(model.config, _dtype(model), stacked=model.stacked))


def _dtype(model: GPTNeoX) -> jnp.dtype:
    """A dtype that holds all parameters exactly."""
    leaves = parameters(model)
    (dtype, *others) = {leaf.array.dtype for leaf in leaves if len(leaf.shape) > 1}
    exact = not others and all(_is_exact(leaf.array, dtype) for leaf in leaves)
    return dtype if exact else model.dtype


def _is_exact(array: jax.Array | jax.ShapeDtypeStruct, dtype: jnp.dtype) -> bool:
    assert isinstance(array, jax.Array)
    same = array.dtype == dtype
    return same or bool((array.astype(dtype).astype(array.dtype) == array).all())


def _tensors(model: GPTNeoX) -> Iterator[np.ndarray]:
    for leaf, stored in zip(parameters(model), _parameters(model), strict=True):
        assert isinstance(leaf.array, jax.Array)
        own = tuple(slice(size) for size in stored.shape)
        for layer in range(len(leaf.names)):
            tensor = _whole(leaf.array[layer] if leaf.stacked else leaf.array)[own]
            yield tensor.astype(stored.array.dtype, copy=False)


def _whole(array: jax.Array) -> np.ndarray:
    """The whole array, even where other hosts hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
