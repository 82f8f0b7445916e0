"""A file as `torch.save` writes it, with little memory beside what one block of a tensor takes."""

import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from neox_eqx.checkpoint.entry import Entry, FileEntry, blocks
from neox_eqx.checkpoint.torch_file import DTYPES, read_states
from neox_eqx.errors import InputError

if TYPE_CHECKING:
    import torch


def write_states(
    path: Path, entries: Iterable[Entry] | None, states: dict[str, Any] | None = None
) -> None:
    """Writes the tensors under their names, or, with other `states`, under the key `module`.

    `entries` are None for a rank whose tensors are in other files. torch lays out the file, with
    tensors that have no data. Then their values are written block by block where torch left room,
    and last the checksums, so that the file is as torch would have written it.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path}: needs PyTorch to be written; pip install torch") from error
    tensors = {entry.name: entry for entry in entries or ()}
    module = None if entries is None else _without_data(tensors)
    _lay_out(path, module if states is None else {"module": module, **states})
    checksums: dict[int, int] = {}
    with open(path, "r+b") as file:
        for stored in read_states(path)[0]:
            assert isinstance(stored, FileEntry)
            file.seek(stored.start)
            entry, checksum = tensors[stored.name], 0
            for _, block in blocks(entry, tuple(slice(None) for _ in entry.shape), entry.dtype):
                data = block.tobytes()
                checksum = zlib.crc32(data, checksum)
                file.write(data)
            checksums[stored.start] = checksum
        _set_checksums(file, checksums)


def _without_data(entries: Mapping[str, Entry]) -> "dict[str, torch.Tensor]":
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtypes = {dtype: getattr(torch, name.removeprefix("torch.")) for name, dtype in DTYPES.items()}
    with FakeTensorMode():
        return {
            name: torch.empty(entry.shape, dtype=dtypes[entry.dtype])
            for name, entry in entries.items()
        }


def _lay_out(path: Path, states: object) -> None:
    import torch

    with torch.serialization.skip_data(materialize_fake_tensors=True), open(path, "wb") as file:
        torch.save(states, file)


def _set_checksums(file: BinaryIO, checksums: dict[int, int]) -> None:
    """Sets the CRC-32 of the zip file's members, which are named by where their data start.

    Each stands twice: in the archive's directory and in a descriptor behind the data.
    """
    file.flush()
    with zipfile.ZipFile(file) as archive:
        members, start_of_entry = archive.infolist(), archive.start_dir
    for member in members:
        file.seek(member.header_offset + 26)
        start = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        if start in checksums:
            checksum = struct.pack("<I", checksums[start])
            file.seek(start_of_entry + 16)
            file.write(checksum)
            file.seek(start + member.file_size)
            assert file.read(4) == b"PK\x07\x08"
            file.seek(start + member.file_size + 4)
            file.write(checksum)
        file.seek(start_of_entry + 28)
        start_of_entry += 46 + sum(struct.unpack("<HHH", file.read(6)))
