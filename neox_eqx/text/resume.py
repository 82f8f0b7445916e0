"""Rows that are kept as they come, so that an ended run can be continued."""

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
"""That are read of a first line; ours has a few thousand."""


@contextlib.contextmanager
def partial_rows(output: Path) -> Iterator["PartialRows"]:
    """The rows for the file `output`, kept in a file beside it with `.partial` after its name.

    That file stays if the block ends before `finish`, unless it is empty. Where `output` is a pipe
    or a device, nothing stays.

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
    """A file whose first line says what its rows come from; every other has an index and a row."""

    def __init__(self, output: Path, path: Path, file: IO[bytes]):
        self._output, self._path, self._file = output, path, file
        self._header = b""
        self.starts: dict[int, int] = {}
        """The byte where each row's line begins: the rows may be more than fit into memory."""

    def begin(self, subject: Mapping[str, str]) -> None:
        """Finds the rows that are there; `subject` describes all that they come from.

        Raises:
            InputError: they come from something else, or this is another kind of file.
        """
        self._header = json.dumps(subject).encode() + b"\n"
        self._file.seek(0)
        first = self._file.readline(_HEADER_BYTES)
        # On a full disk only its beginning may have been written.
        is_ours = self._header.startswith(first)
        others = "" if is_ours else self._differences(first, subject)
        start = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # the last one, which was not written whole
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
        """For each index below `count`, whether its row is there.

        Raises:
            InputError: a row has a higher index.
        """
        if max(self.starts, default=0) >= max(count, 1):
            raise self._foreign()
        there = np.zeros(count, bool)
        there[list(self.starts)] = True
        return there

    def add(self, index: int, row: Mapping[str, Any]) -> None:
        """Writes a row, which stays whatever becomes of this process.

        Raises:
            InputError: the disk does not take it.
        """
        # A path in an error may be no Unicode; it is escaped.
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
