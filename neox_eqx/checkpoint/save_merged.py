"""A checkpoint on the disk, with what LoRA learnt added to its weights."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.entry import Entry, row_blocks
from neox_eqx.checkpoint.fit import fitting, model_shapes
from neox_eqx.checkpoint.merged import MergedEntry
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.origin import Origin
from neox_eqx.checkpoint.save import Companion, write
from neox_eqx.checkpoint.save_adapter import gathered, lora_tensors
from neox_eqx.checkpoint.ties import settle_tying
from neox_eqx.model.adapt import adapted
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.distributed import is_first

_DTYPE = jnp.dtype(jnp.float32)


def save_merged(
    trained: GPTNeoX,
    source: Origin,
    directory: str | Path,
    companions: Iterable[Companion] = (),
    *,
    quantize: str | None = None,
) -> None:
    """Writes the model of `source` with the A and B in `trained` merged, in float32.

    The weights are those of the files, and not those that the model computed with, which may be
    rounded to bfloat16. With `quantize`, the form that the base was in, they are the numbers
    that it stands for. Only one tensor is in memory at a time, and none on a device. Otherwise as
    `save`.

    Raises:
        InputError: as `load` and `save` do.
    """
    checkpoint = Checkpoint.open(source).rounded(quantize)
    trained = gathered(trained)
    if not is_first():
        return
    stored = fitting(checkpoint)
    config = settle_tying(checkpoint.config, stored, _DTYPE)
    leaves = parameters(model_shapes(config, _DTYPE, stacked=False))
    names = [name for leaf in leaves for name in leaf.names]
    tensors = _merged(names, stored, lora_tensors(trained), adapted(trained)[0].scale)
    write(config, leaves, tensors, Path(directory), companions)


def _merged(
    names: Iterable[str], stored: Mapping[str, Entry], lora: Mapping[str, np.ndarray], scale: float
) -> Iterator[np.ndarray]:
    for name in names:
        entry, layer = stored[name], name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in lora:
            a, b = (lora[f"{layer}.lora_{which}.weight"] for which in "AB")
            entry = MergedEntry(entry, left=b, right=a, scale=scale)
        yield np.concatenate([block.astype(_DTYPE) for block in row_blocks(entry)])
