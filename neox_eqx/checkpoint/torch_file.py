"""The tensors in a file that `torch.save` wrote."""

import dataclasses
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from neox_eqx.checkpoint.entry import Entry, FileEntry, check_name, extent
from neox_eqx.errors import InputError

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
        return self.array[index]


def read_entries(path: Path) -> list[Entry]:
    """The tensors of a file; code that a pickle may hold is not run.

    A zip file, which torch writes since 1.6, gives up its tensors' places and none of their
    data. An older file has to be read whole.

    Raises:
        InputError: torch is not installed, or the file is corrupt or holds more than tensors.
    """
    starts = _data_starts(path)
    if starts is None:
        tensors = _load(path, "cpu")
        return [MemoryEntry(path, name, _to_numpy(tensor)) for name, tensor in tensors.items()]
    tensors = _load(path, "meta")
    return [_file_entry(path, name, tensor, starts) for name, tensor in tensors.items()]


def _load(path: Path, device: str) -> "dict[str, torch.Tensor]":
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: needs PyTorch to be read; pip install torch") from error
    import pickle

    try:
        tensors = torch.load(path, weights_only=True, map_location=device)
    except pickle.UnpicklingError as error:
        raise _more_than_tensors(path) from error
    except Exception as error:  # A corrupt pickle can fail in any way at all.
        raise _corrupt(path) from error
    if not isinstance(tensors, dict):
        raise _more_than_tensors(path)
    for name, tensor in tensors.items():
        plain = isinstance(name, str) and isinstance(tensor, torch.Tensor)
        if not plain or tensor.layout != torch.strided:
            raise _more_than_tensors(path)
        check_name(path, name)
        if str(tensor.dtype) not in DTYPES:
            raise InputError(f"{path}: {name} has the unsupported dtype {tensor.dtype}")
        if tensor.device.type != device or tensor.is_neg():
            raise InputError(f"{path}: {name} is negated or without values; save a plain tensor")
    return tensors


def _corrupt(path: Path) -> InputError:
    return InputError(f"{path}: is truncated or corrupt; get the file again")


def _more_than_tensors(path: Path) -> InputError:
    return InputError(
        f"{path}: holds other things than named tensors, which are not read for safety; "
        "save the model's state_dict() alone"
    )


def _to_numpy(tensor: "torch.Tensor") -> np.ndarray:
    dtype = DTYPES[str(tensor.dtype)]
    if dtype != ml_dtypes.bfloat16:
        return tensor.detach().numpy()
    import torch

    # NumPy does not know bfloat16; the bits go over as they are.
    return tensor.detach().view(torch.uint16).numpy().view(dtype)


def _data_starts(path: Path) -> set[int] | None:
    """The bytes of a zip file at which its uncompressed members' data begin; None if it is none."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            starts, big_endian = set(), False
            for member in archive.infolist():
                # torch looks for it in capitals too.
                if member.filename.lower().endswith("/byteorder"):
                    big_endian |= archive.read(member) == b"big"
                if member.compress_type == zipfile.ZIP_STORED:
                    file.seek(member.header_offset + 26)
                    lengths = file.read(4)
                    # A local header is 30 bytes, its name and an extra field of their own lengths.
                    starts.add(member.header_offset + 30 + sum(struct.unpack("<HH", lengths)))
    except Exception as error:  # A corrupt archive can fail in any way at all.
        raise _corrupt(path) from error
    if big_endian:
        # Without their data, torch would turn round bytes that are not there, and crash.
        raise InputError(f"{path}: was written big-endian; save it on a little-endian machine")
    return starts


def _file_entry(path: Path, name: str, tensor: "torch.Tensor", starts: set[int]) -> FileEntry:
    """Where torch says that the tensor's data are.

    torch takes it for granted that its own writer laid out the file. One that was zipped again
    is another matter, so the place is held against the archive's directory.
    """
    storage, dtype, shape = tensor.untyped_storage(), DTYPES[str(tensor.dtype)], tuple(tensor.shape)
    first, strides = tensor.storage_offset(), tensor.stride()
    ends = (first + extent(shape, strides)) * dtype.itemsize
    if storage._checkpoint_offset not in starts or ends > storage.nbytes():
        raise InputError(f"{path}: {name} is not where torch puts it; save the file again")
    start = storage._checkpoint_offset + first * dtype.itemsize
    return FileEntry(path, name, shape, dtype, start, strides)
