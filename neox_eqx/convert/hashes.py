"""SHA-256 of files and tensors, of which none is in memory as a whole."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from neox_eqx.checkpoint.entry import Entry, row_blocks
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.errors import InputError
from neox_eqx.small_files import check_file

# Each holds a block in memory. Hashing and reading release Python's lock.
_THREADS = 2
_BLOCK_BYTES = 4 * 2**20
"""Of a file that are in memory at a time."""

Item = TypeVar("Item", Path, Entry)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    check_file(path)
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
            return {"bytes": file.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def describe_text(text: str) -> dict[str, Any]:
    """Size and SHA-256 of a text in UTF-8."""
    data = text.encode()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_tensor(entry: Entry) -> dict[str, Any]:
    """Dtype of a tensor and SHA-256 of its values: little-endian, row by row, in that dtype.

    Of one in few bits the values are the numbers that its codes stand for, and its form is named.
    """
    digest = hashlib.sha256()
    for block in row_blocks(entry):
        digest.update(block.reshape(-1).view("u1").data)
    form = {"form": entry.form.name} if isinstance(entry, FewBits) else {}
    return {"dtype": entry.dtype.name, **form, "sha256": digest.hexdigest()}


def describe_all(
    describe: Callable[[Item], dict[str, Any]], items: Iterable[Item], what: str
) -> list[dict[str, Any]]:
    """Describes several, in their order, with progress on stderr if that is a terminal."""
    items = list(items)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = tqdm(pool.map(describe, items), total=len(items), desc=what, disable=None)
        return list(found)
