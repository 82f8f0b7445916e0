"""Reading parts of the tensors in a .safetensors file.

Not by the safetensors library: it maps the file into memory, where every page that was read
counts as the process's own until the file is closed, so that a load would peak at twice the
model. Here a read takes exactly the bytes that it is asked for.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from neox_eqx.errors import InputError

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
# The format's own limit, which keeps a corrupt length from being taken for a header.
MAX_HEADER_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True)
class SafetensorsEntry:
    """One tensor of a file; its data begins at byte `start` of the file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the tensor at `index`, a slice of step 1 for each dimension.

        Only the bytes of the rows in the first slice are read.
        """
        if not self.shape:
            return self._read_rows(0, 1)[0]
        first, last, _ = index[0].indices(self.shape[0])
        return self._read_rows(first, last)[(slice(None), *index[1:])]

    def _read_rows(self, first: int, last: int) -> np.ndarray:
        rows = np.empty((max(last - first, 0), *self.shape[1:]), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start + first * math.prod(self.shape[1:]) * self.dtype.itemsize)
            rest = memoryview(rows.reshape(-1).view(np.uint8))
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise InputError(f"{self.path}: ends within {self.name}; get the file again")
                rest = rest[count:]
        return rows


def read_entries(path: Path) -> list[SafetensorsEntry]:
    """The tensors of a file, from its header alone.

    Raises:
        InputError: the file cannot be read, is truncated, or breaks the format.
    """
    try:
        with open(path, "rb") as file:
            file_bytes = path.stat().st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or not 2 <= header_bytes <= min(file_bytes - 8, MAX_HEADER_BYTES):
                raise _corrupt(path, "it has no whole header")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _corrupt(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    spans = [_span(path, name, fields) for name, fields in header.items()]
    _check_cover(path, spans, file_bytes - data_start)
    return [
        SafetensorsEntry(path, span.name, span.shape, span.dtype, data_start + span.begin)
        for span in spans
    ]


@dataclasses.dataclass(frozen=True)
class _Span:
    """A tensor as the header has it: bytes `begin` to `end` of the data."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    end: int


def _span(path: Path, name: str, fields: Any) -> _Span:
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _corrupt(path, f"its entry for {name} is incomplete") from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{path}: {name} has the unsupported dtype {dtype!r}")
    if not whole or end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _corrupt(path, f"the size of {name} does not fit its shape")
    return _Span(name, tuple(shape), DTYPES[dtype], begin, end)


def _check_cover(path: Path, spans: list[_Span], data_bytes: int) -> None:
    """Tensors stand one after another and fill the file: no holes, overlaps or missing ends."""
    position = 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if span.begin != position:
            raise _corrupt(path, f"{span.name} does not begin where the tensor before it ends")
        position = span.end
    if position != data_bytes:
        raise _corrupt(path, f"it holds {data_bytes} bytes of tensors where {position} are listed")


def _corrupt(path: Path, what: str) -> InputError:
    return InputError(f"{path}: is truncated or corrupt: {what}; get the file again")
