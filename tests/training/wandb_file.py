"""The .wandb file of a run, which is in the form of LevelDB's logs and holds W&B's own records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_FILE_HEADER, _HEADER = 7, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_history(path: Path) -> dict[int, dict[str, Any]]:
    """The numbers of each step, by the step, None where one is NaN or infinite.

    Those that W&B adds, such as the time, are left out.
    """
    steps = {}
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if not record.HasField("history"):
            continue
        items = {"".join(item.nested_key) or item.key: item for item in record.history.item}
        row = {
            name: json.loads(item.value_json, parse_constant=lambda _: None)
            for name, item in items.items()
        }
        assert record.history.step.num not in steps
        steps[record.history.step.num] = {
            name: value for name, value in row.items() if not name.startswith("_")
        }
    return steps


def read_name(path: Path) -> str:
    """What the run is called."""
    records = map(wandb_internal_pb2.Record.FromString, _records(path.read_bytes()))
    return next(record.run.display_name for record in records if record.HasField("run"))


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, parts = _FILE_HEADER, []
    while place + _HEADER.size <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER.size:  # the rest of a block is empty
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        parts.append(data[place : place + length])
        place += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
