"""The tensors in a .safetensors file: where they are, and how to write one.

The safetensors library is not used: who copies out of its mapping has every page twice until the
file is closed. Here a tensor is used where it is mapped, or a shard of it is read and never mapped.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from neox_eqx.checkpoint.entry import FileEntry, check_name, contiguous
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import check_file, parse_json

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
    }.items()
}
# Bytes: what JAX takes without a copy on a CPU. The format asks for 8.
_ALIGNMENT = 64
# The format's own limit, which keeps a corrupt length from being taken for a header.
MAX_HEADER_BYTES = 100_000_000
# More than any checkpoint has; to multiply thousands of large dimensions would take minutes.
MAX_RANK = 8


def read_entries(path: Path) -> list[FileEntry]:
    """The tensors of a file, from its header alone.

    Raises:
        InputError: the file cannot be read, is truncated, or breaks the format.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            file_bytes = path.stat().st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(file_bytes - 8, MAX_HEADER_BYTES):
                raise _corrupt(path, "it has no whole header")
            encoded = file.read(header_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    start = 8 + header_bytes
    spans = [_span(path, name, fields) for name, fields in _parse(path, encoded).items()]
    _check_cover(path, spans, file_bytes - start)
    return [
        FileEntry(
            path, span.name, span.shape, span.dtype, start + span.begin, contiguous(span.shape)
        )
        for span in spans
    ]


def _parse(path: Path, encoded: bytes) -> dict[str, Any]:
    try:
        header = parse_json(encoded)
    except InputError as error:
        raise _corrupt(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


@dataclasses.dataclass(frozen=True)
class _Span:
    """A tensor as the header has it: bytes `begin` to `end` of the data."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    end: int


def _span(path: Path, name: str, fields: Any) -> _Span:
    check_name(path, name)
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _corrupt(path, f"its entry for {name} is incomplete") from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{path}: {name} has the unsupported dtype {shown(dtype)}")
    if len(shape) > MAX_RANK:
        raise _corrupt(path, f"{name} has {len(shape)} dimensions")
    if not whole or end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _corrupt(path, f"the size of {name} does not fit its shape")
    return _Span(name, tuple(shape), DTYPES[dtype], begin, end)


def _check_cover(path: Path, spans: list[_Span], data_bytes: int) -> None:
    """Checks that tensors fill the file one after another, without holes or overlaps."""
    position = 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if span.begin != position:
            raise _corrupt(path, f"{span.name} does not begin where the tensor before it ends")
        position = span.end
    if position != data_bytes:
        raise _corrupt(path, f"it holds {data_bytes} bytes of tensors where {position} are listed")


def _corrupt(path: Path, what: str) -> InputError:
    return InputError(f"{path}: is truncated or corrupt: {what}; get the file again")


def encode_header(layout: Sequence[tuple[str, tuple[int, ...], np.dtype]]) -> bytes:
    """The header of a file with tensors of these names, shapes and dtypes."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    # transformers refuses a file that does not say which framework its tensors are of.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in layout:
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # So that tensors can be used where they are mapped, as their sizes mostly are multiples too.
    encoded += b" " * (-(8 + len(encoded)) % _ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded


def write_tensors(
    path: Path,
    layout: Sequence[tuple[str, tuple[int, ...], np.dtype]],
    tensors: Iterable[np.ndarray],
) -> None:
    """Writes tensors one at a time; `layout` gives their names, shapes and dtypes beforehand."""
    with open(path, "wb") as file:
        file.write(encode_header(layout))
        for (_, shape, dtype), tensor in zip(layout, tensors, strict=True):
            assert (tensor.shape, tensor.dtype) == (shape, dtype)
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
