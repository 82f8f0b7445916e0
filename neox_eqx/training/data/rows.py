"""The rows of a file: lines or an array of JSON, or Parquet."""

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple

from neox_eqx.errors import InputError
from neox_eqx.small_files import bounded_lines, parse_json
from neox_eqx.text.files import json_line

_MOST_ARRAY_BYTES = 10**9
"""Of a JSON array, which is in memory as a whole; its objects take several times as much."""
_BATCH = 1024
"""Rows of a Parquet file that are Python objects at a time."""


class Row(NamedTuple):
    """A row, and what messages call it: line 7, item 7 of an array, row 7 of a table."""

    unit: str
    number: int
    """From 1; in a table from 0."""
    fields: dict[str, Any]


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a .parquet file; of any other what its first character says it is.

    A file that begins with [ is an array of objects, and any other has one on each line. Blank
    lines are left out.

    Raises:
        InputError: it cannot be read, or is no such file; the message has the number of the row.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        with path.open("rb") as file:
            is_array = file.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
            yield from _items(path, file) if is_array else _lines(path, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path: Path, file: BufferedReader) -> Iterator[Row]:
    for number, line in bounded_lines(path, file):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number}: is not UTF-8: {error}") from error
        if text.strip():
            yield Row("line", number, json_line(path, number, text))


def _items(path: Path, file: IO[bytes]) -> Iterator[Row]:
    data = file.read(_MOST_ARRAY_BYTES + 1)
    if len(data) > _MOST_ARRAY_BYTES:
        raise InputError(f"{path}: is an array of more than 1 GB; make it .jsonl, a row a line")
    try:
        items = parse_json(data.removeprefix(b"\xef\xbb\xbf"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise InputError(f"{path}, item {number}: is not a JSON object")
        yield Row("item", number, item)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: to read Parquet, pip install pyarrow") from error
    number = 0
    try:
        with path.open("rb") as file, pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(_BATCH):
                for fields in batch.to_pylist():
                    yield Row("row", number, fields)
                    number += 1
    except Exception as error:  # of the library, or of what is no date or text in Python
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not a Parquet file: {reason:.200}") from error
