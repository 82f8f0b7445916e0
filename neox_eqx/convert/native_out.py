"""A checkpoint's tensors in the native layout: an Orbax checkpoint in chunks of rows."""

import contextlib
import dataclasses
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.checkpoint.native import CHUNK_BYTES, PARAMETERS
from neox_eqx.errors import InputError

if TYPE_CHECKING:
    import tensorstore

# Chunks end where the shards of so many devices end; so for any number that divides this.
SHARDS = 16
# Below this a chunk is not worth a file of its own.
SMALLEST_CHUNK = 64 * 2**10


def write_native(entries: Sequence[Entry], directory: Path) -> None:
    """Writes the tensors under their names into `directory`/parameters, a chunk at a time.

    Orbax writes its own metadata, and only the arrays are written here: Orbax would need all of
    them in memory, and would write each as a single chunk, which a reader of a part reads whole.
    """
    import orbax.checkpoint as ocp

    class Handler(ocp.type_handlers.NumpyHandler):
        """Writes an entry, to be restored as any array."""

        async def serialize(
            self, values: Sequence[_Leaf], infos: Sequence[Any], args: Any = None
        ) -> list[Any]:
            for value, info in zip(values, infos, strict=True):
                await _write(value.entry, Path(info.path))
            return []

    registry = ocp.type_handlers.create_type_handler_registry((_Leaf, Handler()))
    tree = {part.name: _Leaf(part) for entry in entries for part in _parts(entry)}
    with _quiet():
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False, use_zarr3=True, type_handler_registry=registry
        )
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(directory.resolve() / PARAMETERS, tree)


def _parts(entry: Entry) -> Iterator[Entry]:
    """The tensors that it is stored as."""
    if isinstance(entry, FewBits):
        yield from entry.parts.values()
    else:
        yield entry


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warnings that it finds neither jax.Arrays nor files of theirs."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf by whose type Orbax knows that our handler writes it."""

    entry: Entry


async def _write(entry: Entry, path: Path) -> None:
    rows = chunk_rows(entry)
    others = tuple(slice(0, size) for size in entry.shape[1:])
    try:
        store = await _create(entry, path, rows)
        if not entry.shape:
            await store.write(entry.read(()))
            return
        for first in range(0, entry.shape[0], rows):
            block = entry.read((slice(first, min(first + rows, entry.shape[0])), *others))
            await store[first : first + len(block)].write(block)
    except InputError:
        raise  # of the source
    except ValueError as error:
        # tensorstore's, with the system's number in the text alone.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


async def _create(entry: Entry, path: Path, rows: int) -> "tensorstore.TensorStore":
    import tensorstore

    chunk_shape = [rows, *entry.shape[1:]] if entry.shape else []
    metadata = {
        "shape": entry.shape,
        "data_type": entry.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        # A file a chunk, and no directory a row of chunks.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        # The bytes as in memory, and a checksum, so that a fault of the disk is found on loading.
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": metadata,
        "store_data_equal_to_fill_value": True,
    }
    # Without fsync: until the directory gets its name, its files do not count.
    context = tensorstore.Context({"file_io_sync": False})
    return await tensorstore.open(spec, create=True, context=context)


def chunk_rows(entry: Entry) -> int:
    """The rows of a chunk, such that the shards of a power of two of devices are whole chunks."""
    if not entry.shape or 0 in entry.shape:
        return 1
    rows = entry.shape[0] // math.gcd(entry.shape[0], SHARDS)
    row_bytes = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    while rows > 1 and rows * row_bytes > CHUNK_BYTES:
        rows = -(-rows // 2)
    while rows < entry.shape[0] and rows * row_bytes < SMALLEST_CHUNK:
        rows = min(2 * rows, entry.shape[0])
    return rows
