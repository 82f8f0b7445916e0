"""What a run must find unchanged to go on, kept in its directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.config import read_json
from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import agreed, is_first
from neox_eqx.text.files import whole_file

NAME = "run.json"
# The number of steps may grow, and then the schedule is that of the new number from there on.
_MAY_CHANGE = ("steps",)


def claim(directory: Path, settings: Mapping[str, Any]) -> None:
    """Makes the directory that of the run with these settings, or finds that it is already.

    Raises:
        InputError: it holds something else or another run, cannot be written, or is not one
            directory for all hosts.
    """
    path = directory / NAME
    with agreed():
        _check(path, settings)
    with agreed():
        if is_first():
            _make(directory)
            with whole_file(path) as file:
                file.write(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    with agreed():
        if not path.exists():
            raise InputError(
                f"{directory}: is not the directory that the first process has under this name; "
                "name an --output that all hosts share"
            )


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    directory = path.parent
    if not path.exists():
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: holds no run, and is not empty; name another --output")
        return
    before = read_json(path)
    for name in before.keys() | settings.keys():
        if name not in _MAY_CHANGE and before.get(name) != settings.get(name):
            raise InputError(
                f"{directory}: holds a run with another {name} ({_short(before.get(name))}, not "
                f"{_short(settings.get(name))}); give what it began with, or name another --output"
            )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be made: {error.strerror}") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
