"""A checkpoint's tensors in Hugging Face's layout: safetensors files and their index."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from neox_eqx.checkpoint.entry import Entry, row_blocks
from neox_eqx.checkpoint.files import WEIGHT_FILES
from neox_eqx.checkpoint.safetensors_file import encode_header
from neox_eqx.errors import InputError
from neox_eqx.shown import shown

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """The bytes in `5GB` or `500MiB`.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*([KMG]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise InputError(f"the size {shown(text)} is not of the form 5GB, 500MB or 2GiB")
    return size


def write_hf(entries: Sequence[Entry], directory: Path, max_shard_bytes: int) -> None:
    """Writes the tensors under their names, a block of rows at a time; the index comes last.

    No file is larger than `max_shard_bytes`, unless a single tensor is.
    """
    shards = _shards(entries, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / WEIGHT_FILES[0], shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(directory / name, shard)
        weight_map |= {entry.name: name for entry in shard}
    totals = {
        "total_parameters": sum(math.prod(entry.shape) for entry in entries),
        "total_size": sum(_bytes(entry) for entry in entries),
    }
    index = {"metadata": totals, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (directory / WEIGHT_FILES[1]).write_text(text, encoding="utf-8")


def _shards(entries: Sequence[Entry], max_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + _bytes(entry) > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += _bytes(entry)
    return shards


def _write_file(path: Path, entries: Sequence[Entry]) -> None:
    # Wide elements first, as the safetensors library does, so that each tensor is aligned.
    entries = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    with open(path, "wb") as file:
        file.write(encode_header([(entry.name, entry.shape, entry.dtype) for entry in entries]))
        for entry in entries:
            for block in row_blocks(entry):
                file.write(block.reshape(-1).view("u1").data)


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize
