"""Rows that are kept as they come, so that a run that was ended goes on where it was."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool

from neox_eqx.destination import open_alone, place_of, whole_file
from neox_eqx.errors import InputError
from neox_eqx.small_files import parse_json

_HEADER_BYTES = 2**16


@contextlib.contextmanager
def partial_rows(output: Path) -> Iterator["PartialRows"]:
    """The rows of the file `output`, in one beside it that is named so and `.partial`.

    It stays if the block ends before `finish`, unless it is empty. Where `output` is a pipe or
    a device, nothing stays.

    Raises:
        InputError: it cannot be written, or another process writes it.
    """
    output, in_place = place_of(output)
    path = output.with_name(f"{output.name}.partial")
    with tempfile.TemporaryFile() if in_place else open_alone(path, of=output) as file:
        rows = PartialRows(output, path, file)
        try:
            yield rows
        finally:
            with contextlib.suppress(FileNotFoundError):
                if not in_place and not path.stat().st_size:
                    path.unlink()


class PartialRows:
    """A file whose first line says what its rows come of; each other has an index, and its row."""

    def __init__(self, output: Path, path: Path, file: IO[bytes]):
        self._output, self._path, self._file = output, path, file
        self._header = b""
        self.starts: dict[int, int] = {}
        """The byte where each row's line begins: the rows may be more than fit into memory."""

    def begin(self, subject: Mapping[str, str]) -> None:
        """Finds the rows that are there; `subject` describes all that they come of.

        Raises:
            InputError: they come of something else, or the file is none of these.
        """
        self._header = json.dumps(subject).encode() + b"\n"
        self._file.seek(0)
        first = self._file.readline(_HEADER_BYTES)
        # A full disk may have taken the beginning of it alone.
        is_ours = self._header.startswith(first)
        others = "" if is_ours else self._differences(first, subject)
        start = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # the last that was written, and not whole
            index, _, row = line.partition(b"\t")
            is_index = index.isdigit() and len(index) < 19
            if not (is_index and row.startswith(b"{") and row.endswith(b"}\n") and _is_text(row)):
                raise self._foreign()
            self.starts[int(index)] = start
            start += len(line)
        if not self.starts:
            start = 0
        elif others:
            raise InputError(
                f"{self._path}: has rows of {others}; remove it, or name another --output"
            )
        self._file.truncate(start)

    def are_there(self, count: int) -> Bool[np.ndarray, " N"]:
        """Of each of so many indices, whether its row is there.

        Raises:
            InputError: a row has another index.
        """
        if max(self.starts, default=0) >= max(count, 1):
            raise self._foreign()
        there = np.zeros(count, bool)
        there[list(self.starts)] = True
        return there

    def add(self, index: int, row: Mapping[str, Any]) -> None:
        """Keeps a row from now on, whatever becomes of this process.

        Raises:
            InputError: the disk does not take it.
        """
        # A path in a message may be no Unicode, and is escaped as in JSON.
        text = json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace")
        try:
            if not self._file.seek(0, 2):
                self._file.write(self._header)
            start = self._file.tell()
            self._file.write(b"%d\t%s\n" % (index, text))
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()  # which would try once more
            raise InputError(
                f"{self._path}: cannot be written: {error.strerror}; when it can be, the same "
                "command goes on"
            ) from error
        self.starts[index] = start

    def finish(self) -> None:
        """Writes the rows in the order of their indices, as a file that is whole or not there.

        Raises:
            InputError: the disk does not take it.
        """
        with whole_file(self._output) as whole:
            for index in sorted(self.starts):
                self._file.seek(self.starts[index])
                whole.write(self._file.readline().decode().partition("\t")[2])
        self._file.truncate(0)

    def _differences(self, header: bytes, subject: Mapping[str, str]) -> str:
        try:
            found = parse_json(header)
        except InputError as error:
            raise self._foreign() from error
        if not isinstance(found, dict) or found.keys() != subject.keys():
            raise self._foreign()
        return " and ".join(f"another {name}" for name in subject if found[name] != subject[name])

    def _foreign(self) -> InputError:
        return InputError(f"{self._path}: is no file of rows; remove it, or name another --output")


def _is_text(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True
