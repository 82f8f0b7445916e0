"""The tensors in a file that `torch.save` wrote."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from neox_eqx.checkpoint.entry import Entry, FileEntry, check_name, extent
from neox_eqx.checkpoint.pickled_names import check_names
from neox_eqx.checkpoint.torch_zip import corrupt, data_starts
from neox_eqx.errors import InputError
from neox_eqx.shown import shown

if TYPE_CHECKING:
    import torch

DTYPES = {
    "torch.bool": np.dtype(np.bool_),
    "torch.uint8": np.dtype(np.uint8),
    "torch.int8": np.dtype(np.int8),
    "torch.int16": np.dtype(np.int16),
    "torch.int32": np.dtype(np.int32),
    "torch.int64": np.dtype(np.int64),
    "torch.float16": np.dtype(np.float16),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float32": np.dtype(np.float32),
    "torch.float64": np.dtype(np.float64),
}


@dataclasses.dataclass(frozen=True)
class MemoryEntry:
    """A tensor that is in memory already."""

    path: Path
    name: str
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(self.array[index])  # an array even of a scalar


# Settings lie in the dict of a run's arguments, and some of them are dicts.
_MOST_LEVELS = 2


class Inert:
    """Stands in for an object of a training run: its pickle makes one of these, which does nothing.

    `attributes` has what the pickle would set on the object under names.
    """

    attributes: dict

    def __new__(cls, *arguments: object) -> "Inert":
        inert = super().__new__(cls)
        inert.attributes = {}
        return inert

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


# What a training run's states hold beside tensors: its arguments, the state of NumPy's random
# numbers, and what DeepSpeed and Transformer Engine keep. None of it is made; see `Inert`.
OF_A_TRAINING_RUN = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "_io.BytesIO",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


def read_entries(path: Path) -> list[Entry]:
    """The tensors of a file; code that a pickle may hold is not run.

    Of a zip file, which torch writes since 1.6, only where the tensors' data stand is read. An
    older file has to be read whole.

    Raises:
        InputError: torch is not installed, or the file is corrupt or holds more than tensors.
    """
    starts = data_starts(path)
    tensors = _unpickle(path, starts, stand_ins=())
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not _is_tensor(tensor):
            raise _more_than_tensors(path)
    return [_entry(path, name, tensor, starts) for name, tensor in tensors.items()]


def read_states(path: Path) -> tuple[list[Entry], dict[str, Any]]:
    """The tensors of a training run's file, and the numbers, texts and dicts beside them.

    The tensors are those under the key `module`, or those of the file where it has no such key.
    All else that a training run is known to leave behind is ignored.

    Raises:
        InputError: as `read_entries`, or an object that a training run does not leave behind.
    """
    starts = data_starts(path)
    states = _unpickle(path, starts, stand_ins=OF_A_TRAINING_RUN)
    module = states.get("module", states)
    module = {} if module is None else module
    if not isinstance(module, Mapping):
        raise InputError(f"{path}: its module is no dict of tensors; save the checkpoint again")
    tensors = {
        name if isinstance(name, str) else shown(name): tensor
        for name, tensor in module.items()
        if _is_tensor(tensor)
    }
    entries = [_entry(path, name, tensor, starts) for name, tensor in tensors.items()]
    return entries, _plain({key: value for key, value in states.items() if key != "module"})


def _plain(values: Mapping, levels: int = _MOST_LEVELS) -> dict[str, Any]:
    """The values that have names, to a few levels: a dict may hold itself."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        value = value.attributes if isinstance(value, Inert) else value
        if isinstance(key, str) and isinstance(value, Mapping) and levels:
            plain[key] = _plain(value, levels - 1)
        elif isinstance(key, str) and isinstance(value, str | int | float | None):
            plain[key] = value
    return plain


def _unpickle(path: Path, starts: set[int] | None, stand_ins: tuple[str, ...]) -> Mapping:
    """What the file holds; where `starts` says where data begin, tensors come without data."""
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: needs PyTorch to be read; pip install torch") from error
    import pickle

    check_names(path, is_zip=starts is not None)
    device = "cpu" if starts is None else "meta"
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in stand_ins]):
            states = torch.load(path, weights_only=True, map_location=device)
    except pickle.UnpicklingError as error:
        raise _more_than_tensors(path, str(error)) from error
    except Exception as error:  # A corrupt pickle can fail in any way at all.
        raise corrupt(path) from error
    if not isinstance(states, Mapping):
        raise _more_than_tensors(path)
    return states


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _entry(path: Path, name: str, tensor: "torch.Tensor", starts: set[int] | None) -> Entry:
    check_name(path, name)
    if str(tensor.dtype) not in DTYPES:
        raise InputError(f"{path}: {name} has the unsupported dtype {tensor.dtype}")
    if tensor.device.type != ("cpu" if starts is None else "meta") or tensor.is_neg():
        raise InputError(f"{path}: {name} is negated or without values; save a plain tensor")
    if starts is None:
        return MemoryEntry(path, name, _to_numpy(tensor))
    return _file_entry(path, name, tensor, starts)


def _more_than_tensors(path: Path, reason: str = "") -> InputError:
    named = re.search(r"GLOBAL (\S+)", reason)
    what = f" ({shown(named[1])})" if named else ""
    return InputError(
        f"{path}: holds other things than named tensors{what}, which are not read for safety; "
        "save the model's state_dict() alone"
    )


def _to_numpy(tensor: "torch.Tensor") -> np.ndarray:
    dtype = DTYPES[str(tensor.dtype)]
    if dtype != ml_dtypes.bfloat16:
        return tensor.detach().numpy()
    import torch

    # NumPy does not know bfloat16; the bits go over as they are.
    return tensor.detach().view(torch.uint16).numpy().view(dtype)


def _file_entry(path: Path, name: str, tensor: "torch.Tensor", starts: set[int]) -> FileEntry:
    """Where torch says that the tensor's data are.

    torch relies on its own writer's layout. In a file that was zipped again the data may begin
    elsewhere, so this is held against the archive's directory.
    """
    storage, dtype, shape = tensor.untyped_storage(), DTYPES[str(tensor.dtype)], tuple(tensor.shape)
    first, strides = tensor.storage_offset(), tensor.stride()
    ends = (first + extent(shape, strides)) * dtype.itemsize
    if storage._checkpoint_offset not in starts or ends > storage.nbytes():
        raise InputError(f"{path}: {name} is not where torch puts it; save the file again")
    start = storage._checkpoint_offset + first * dtype.itemsize
    return FileEntry(path, name, shape, dtype, start, strides)
