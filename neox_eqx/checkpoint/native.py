"""The tensors of a native checkpoint: an Orbax checkpoint of which any part can be read.

The directory `parameters` holds an array in zarr's format for each tensor, under its Hugging
Face name. Orbax restores it too; tensorstore, on which Orbax stands, reads rows of a tensor at
the cost of the chunks that hold them, so that loading is the same as from any other file.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neox_eqx.checkpoint import safetensors_file
from neox_eqx.checkpoint.entry import check_name
from neox_eqx.checkpoint.safetensors_file import MAX_RANK
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json

if TYPE_CHECKING:
    import tensorstore

PARAMETERS = "parameters"
METADATA = "_METADATA"
ARRAY = "zarr.json"
_DTYPES = {dtype.name: dtype for dtype in safetensors_file.DTYPES.values()}
# The codecs that leave the bytes as they are.
_CODECS = ({"bytes"}, {"bytes", "crc32c"})
CHUNK_BYTES = 8 * 2**20
"""The most that this package writes into a chunk, which is a file and is read as a whole."""


@dataclasses.dataclass(frozen=True)
class NativeEntry:
    """A tensor in a zarr array, the directory `path`."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    granule: int
    """The rows of a chunk: to begin or end a read within one costs all of it."""
    chunk_bytes: int
    """The size of a chunk's file, with its checksum."""

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`. Only the chunks that hold a part of it are read.

        Raises:
            InputError: a chunk is missing or corrupt.
        """
        # Cut at the end, as NumPy does; tensorstore would complain.
        ranges = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
        within = tuple(slice(first, max(first, last)) for first, last, _ in ranges)
        rows = within[0] if within else slice(0, 1)
        self._check_chunks(rows.start, rows.stop)
        try:
            return self._store[within].read().result()
        except (ValueError, OSError) as error:
            raise _corrupt(self.path, _one_line(error)) from error

    @functools.cached_property
    def _store(self) -> "tensorstore.TensorStore":
        import tensorstore

        # A chunk that is not there is an error, and no zeros.
        spec = {"driver": "zarr3", "kvstore": _file(self.path), "fill_missing_data_reads": False}
        return tensorstore.open(spec, open=True, read=True).result()

    def _check_chunks(self, first: int, last: int) -> None:
        """Checks that the files of these rows are there, and are of the size of a chunk.

        tensorstore waits where one is a pipe, and ends the process where memory is short.
        """
        for number in range(first // self.granule, -(-last // self.granule)):
            position = [number, *[0] * (len(self.shape) - 1)] if self.shape else []
            file = self.path / ".".join(["c", *map(str, position)])
            if not file.exists():
                raise _corrupt(self.path, f"{file.name} is missing")
            if not file.is_file() or file.stat().st_size != self.chunk_bytes:
                raise _corrupt(self.path, f"{file.name} is no file of {self.chunk_bytes} bytes")


def read_entries(directory: Path) -> list[NativeEntry]:
    """The tensors of the Orbax checkpoint at `directory`, without their data.

    Raises:
        InputError: it is incomplete, or not of the form that this package writes.
    """
    metadata = read_json(directory / METADATA)
    if metadata.get("use_ocdbt") is not False or metadata.get("use_zarr3") is not True:
        raise InputError(
            f"{directory}: is not stored as this package stores parameters; "
            "convert the model that it came from again"
        )
    return [_entry(directory, name) for name in _names(directory / METADATA, metadata)]


def _names(path: Path, metadata: dict[str, Any]) -> Iterator[str]:
    try:
        keys = [leaf["key_metadata"] for leaf in metadata["tree_metadata"].values()]
        names = [key["key"] for (key,) in keys]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _corrupt(path, "it lists no tensors") from error
    for name in names:
        if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
            raise _corrupt(path, f"{shown(name)} cannot be a tensor's name")
        check_name(path, name)
        yield name


def _entry(directory: Path, name: str) -> NativeEntry:
    path = directory / name
    array = read_json(path / ARRAY)
    try:
        dtype, shape = _DTYPES[array["data_type"]], tuple(array["shape"])
        chunk = tuple(array["chunk_grid"]["configuration"]["chunk_shape"])
        plain = all(type(size) is int and size >= 0 for size in (*shape, *chunk))
        codecs = {codec["name"] for codec in array["codecs"]}
    except (KeyError, TypeError) as error:
        raise _corrupt(path / ARRAY, "it gives no shape, chunks, dtype and codecs") from error
    if not plain or len(chunk) != len(shape) or 0 in chunk or len(shape) > MAX_RANK:
        raise _corrupt(path / ARRAY, "its shape or that of its chunks cannot be")
    if codecs not in _CODECS or chunk[1:] != shape[1:]:
        raise _corrupt(path / ARRAY, "its chunks are not as this package writes them")
    chunk_bytes = math.prod(chunk) * dtype.itemsize + 4 * ("crc32c" in codecs)
    return NativeEntry(path, name, shape, dtype, chunk[0] if chunk else 1, chunk_bytes)


def _file(path: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{path.resolve()}/"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _corrupt(path: Path, what: str) -> InputError:
    return InputError(f"{path}: is incomplete or corrupt: {what}; get the file again")
