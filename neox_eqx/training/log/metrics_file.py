"""metrics.jsonl: what is told of a run, a row for each step and for each evaluation."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.destination import whole_file
from neox_eqx.errors import InputError
from neox_eqx.small_files import bounded_lines, check_file
from neox_eqx.text.files import json_line

NAME = "metrics.jsonl"


class MetricsFile:
    """The file of a run that goes on after `resume_step`: rows of later steps are cut off.

    A run that goes on after step 0 begins anew, and so does the file. Each row is on the disk when
    `write` returns. Infinity and NaN, which JSON does not have, are written as null.

    Raises:
        InputError: the file cannot be written, or holds something else.
    """

    def __init__(self, directory: Path, resume_step: int):
        self._path = directory / NAME
        if self._path.exists():
            rows = read_metrics(directory)
            kept = [row for row in rows if resume_step and row["step"] <= resume_step]
            with whole_file(self._path) as file:
                file.writelines(json.dumps(row) + "\n" for row in kept)
                file.flush()
                os.fsync(file.fileno())
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from error

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        finite = {name: n if math.isfinite(n) else None for name, n in numbers.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def finish(self, status: int) -> None:
        # What a full disk did not take was told of by `write`, and would be tried again here.
        with contextlib.suppress(OSError):
            self._file.close()

    def _failure(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written: {error.strerror}")


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that was not finished is left out.

    Raises:
        InputError: it cannot be read, or a line is no row of metrics.
    """
    path = directory / NAME
    check_file(path)
    try:
        with path.open("rb") as file:
            rows = [
                json_line(path, number, line.decode(errors="replace"))
                for number, line in bounded_lines(path, file)
                if line.endswith(b"\n")
            ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("step"), int):
            raise InputError(f"{path}, line {number}: has no step, and is no row of metrics")
    return rows
