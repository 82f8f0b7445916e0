"""One stored tensor, of which any part can be read."""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from neox_eqx.errors import InputError
from neox_eqx.shown import shown

# 16 MiB of float32: long reads, and little memory beside the model.
BLOCK_ELEMENTS = 4 * 2**20

LONGEST_NAME = 255
"""Bytes, on every file system in use; a native checkpoint has a directory for each tensor."""


@runtime_checkable
class Entry(Protocol):
    """A tensor under its name in the file; its dtype is NumPy's, or ml_dtypes' for bfloat16."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the tensor at `index`, a slice of step 1 for each dimension."""
        ...


class Span(NamedTuple):
    """Bytes of a file that are rows of a tensor, one after another."""

    start: int
    shape: tuple[int, ...]
    nbytes: int


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A tensor at byte `start` of a file, `strides` elements from one index to the next."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    strides: tuple[int, ...]

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`. Of the file, only the bytes of the rows in the first slice are read.

        The rows of a tensor that was saved transposed are spread over nearly all of it, so that
        each read takes the time and memory of the whole tensor.
        """
        if not self.shape:
            return self._read_elements(0, 1).reshape(())
        first, last, _ = index[0].indices(self.shape[0])
        shape = (max(last - first, 0), *self.shape[1:])
        elements = self._read_elements(first * self.strides[0], extent(shape, self.strides))
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        rows = np.lib.stride_tricks.as_strided(elements, shape, strides, writeable=False)
        return rows[(slice(None), *index[1:])]

    def span(self, index: tuple[slice, ...]) -> Span | None:
        """Where in the file the part at `index` is, if it stands there as NumPy has it."""
        sizes = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
        shape = tuple(max(last - first, 0) for first, last, _ in sizes)
        if not shape or self.strides != contiguous(self.shape) or shape[1:] != self.shape[1:]:
            return None
        first = self.start + sizes[0][0] * self.strides[0] * self.dtype.itemsize
        return Span(first, shape, math.prod(shape) * self.dtype.itemsize)

    def read_into(self, buffer: np.ndarray, index: tuple[slice, ...]) -> bool:
        """Fills a buffer with the part at `index` in one read; False where it has to be changed."""
        span = self.span(index)
        if span is None or buffer.dtype != self.dtype or not buffer.flags.c_contiguous:
            return False
        self._read_bytes(buffer.reshape(-1).view(np.uint8).data, span.start)
        return True

    def _read_elements(self, first: int, count: int) -> np.ndarray:
        elements = np.empty(count, self.dtype)
        self._read_bytes(elements.view(np.uint8).data, self.start + first * self.dtype.itemsize)
        return elements

    def _read_bytes(self, rest: memoryview, start: int) -> None:
        try:
            with open(self.path, "rb", buffering=0) as file:
                # No reading ahead: what follows may be another host's share.
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                file.seek(start)
                while rest:
                    read = file.readinto(rest)
                    if not read:
                        raise ends_within(self)
                    rest = rest[read:]
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error


def ends_within(entry: Entry) -> InputError:
    return InputError(f"{entry.path}: ends within {entry.name}; get the file again")


def check_name(path: Path, name: str) -> None:
    """Refuses a tensor's name that would break a message's one line or act on a terminal."""
    if not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        raise InputError(f"{path}: {shown(name)} cannot be a tensor's name; get the file again")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose rows stand one after another."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements there are from the first to the last of a tensor, gaps included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def blocks(
    entry: Entry, index: tuple[slice, ...], dtype: np.dtype, *, granule: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """The part of a tensor at `index`, cast, in blocks of rows, each with its first row's number.

    Every block but the last is of a multiple of `granule` rows. What is too large for float16
    becomes infinite there, as it does in torch.
    """
    start = index[0].indices(entry.shape[0])[0]
    for rows in row_ranges(entry, index[0], granule=granule):
        block = entry.read((rows, *index[1:]))
        with np.errstate(over="ignore"):  # left before the caller goes on
            block = block.astype(dtype, copy=False)
        yield rows.start - start, block


def row_ranges(entry: Entry, rows: slice, *, granule: int = 1) -> Iterator[slice]:
    """The rows of a tensor in blocks, all but the last of a multiple of `granule` rows."""
    start, stop, _ = rows.indices(entry.shape[0])
    # Blocks are of whole chunks, where a tensor is stored in chunks.
    granule = math.lcm(granule, getattr(entry, "granule", 1))
    in_block = BLOCK_ELEMENTS // max(1, math.prod(entry.shape[1:]))
    step = max(1, in_block // granule) * granule
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def row_blocks(entry: Entry) -> Iterator[np.ndarray]:
    """All of a tensor as it is stored, in row-major order, in blocks of rows."""
    if not entry.shape:
        yield entry.read(())
        return
    for _, block in blocks(entry, tuple(slice(0, size) for size in entry.shape), entry.dtype):
        yield np.ascontiguousarray(block)
