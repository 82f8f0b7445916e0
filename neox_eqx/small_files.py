"""Files and lines that are read whole, up to sizes that no real one exceeds."""

import codecs
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError

MOST_BYTES = 10_000_000
"""The limit for settings; those of the largest models, and lists of their tensors, have a few
hundred kilobytes."""
MOST_TOKENIZER_BYTES = 200_000_000
"""The limit for tokenizers; the largest, of a million tokens, have some tens of megabytes."""
MOST_LINE_BYTES = 50_000_000
"""The limit for a line, which is a text: the longest novels have some millions of letters."""
_MOST_DEPTH = 100
"""Levels of a JSON value. Real ones have about ten; Python's recursion ends at a thousand calls."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_bytes(path: Path, most: int = MOST_BYTES, *, by_user: bool = False) -> bytes:
    """The bytes of a file.

    With `by_user`, the user named it, and it may be a pipe, as of a shell's `<(...)`. Elsewhere a
    pipe is a mistake, and reading it might wait for ever.

    Raises:
        InputError: it cannot be read, or has more than `most` bytes.
    """
    if not by_user:
        check_file(path)
    try:
        with path.open("rb") as file:
            # Not `read(most)`, which reserves as much at once; a pipe does not know its size.
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
            data += file.read(most + 1 - len(data)) if by_user else b""
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(data) > most:
        raise InputError(f"{path}: has more than {most} bytes, and cannot be what its name says")
    return data


def check_file(path: Path) -> None:
    """Refuses a pipe or a device where a file should be.

    Raises:
        InputError: it is one of these, or nothing is there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device and not a file")


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    """The error of a file; a ValueError means that no file can have this name."""
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"{path}: cannot be read: {reason}")


def read_text(path: Path, most: int = MOST_BYTES, *, by_user: bool = False) -> str:
    """The text in a file, as `read_bytes`; every line ends in a mere newline.

    Raises:
        InputError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        text = read_bytes(path, most, by_user=by_user).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file, as `read_bytes`.

    Raises:
        InputError: it cannot be read, is too large, or holds no JSON object of valid texts.
    """
    data = read_bytes(path, most)
    try:
        value = parse_json(data.decode())
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ValueError as error:  # of decode and encode
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not a JSON object")
    return value


def bounded_lines(path: Path, file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """The number of each line and its bytes with its end, of the open file `path`.

    A byte order mark before the first line is left out.

    Raises:
        InputError: a line has more than MOST_LINE_BYTES; the message has its number.
    """
    if file.peek(3).startswith(codecs.BOM_UTF8):
        file.read(3)
    for number in itertools.count(1):
        line = file.readline(MOST_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MOST_LINE_BYTES:
            raise InputError(f"{path}, line {number}: has more than {MOST_LINE_BYTES} bytes")
        yield number, line


def parse_json(
    text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The value that a JSON text spells; `pairs` makes something else of each object's pairs.

    Raises:
        InputError: it is not JSON, or so deep that what walks through it would fail.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON: {error}") from error
    if len(text) > _MOST_DEPTH and _is_deep(value):
        raise InputError(f"is not valid JSON: it has more than {_MOST_DEPTH} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            item
            for one in level
            if isinstance(one, dict | list | tuple)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)
