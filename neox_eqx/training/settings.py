"""What a run must find unchanged to go on, kept in its directory."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.config import read_json
from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import agreed, is_first
from neox_eqx.text.files import whole_file

NAME = "run.json"
# The number of steps may grow, and then the schedule is that of the new number from there on.
_MAY_CHANGE = ("steps",)


@contextlib.contextmanager
def claimed(directory: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Makes the directory that of the run with these settings, if it is not already.

    Until the block ends it belongs to this program alone.

    Raises:
        InputError: it holds something else or another run, another program is at it, it cannot
            be written, or it is not one directory for all hosts.
    """
    path = directory / NAME
    settings = json.loads(json.dumps(settings))  # as they are read again: lists for tuples
    with agreed():
        _check(path, settings)
    with contextlib.ExitStack() as stack:
        with agreed():
            if is_first():
                stack.callback(os.close, _lock(directory))
                with whole_file(path) as file:
                    file.write(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        with agreed():
            if not path.exists():
                raise InputError(
                    f"{directory}: is not the directory that the first process has under this "
                    "name; name an --output that all hosts share"
                )
        yield


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    directory = path.parent
    if not path.exists():
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: holds no run, and is not empty; name another --output")
        return
    before = read_json(path)
    for name in settings:
        if name not in _MAY_CHANGE and before.get(name) != settings.get(name):
            raise InputError(
                f"{directory}: holds a run with another {name}"
                f"{_difference(before.get(name), settings.get(name))}; give what it began with, "
                "or name another --output"
            )


def _difference(before: Any, now: Any) -> str:
    """In brackets, where they can be read."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    return f" ({texts[0]}, not {texts[1]})" if max(map(len, texts)) <= 20 else ""


def _lock(directory: Path) -> int:
    """A descriptor of the directory, which is made if need be; the lock ends where that does."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{directory}: another program is at this run; wait for it") from error
    except OSError as error:
        raise InputError(f"{directory}: cannot be made: {error.strerror}") from error
    return descriptor
