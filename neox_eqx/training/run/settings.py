"""The directory of a run: whose it is, and what the run must find unchanged to go on."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.destination import open_alone, whole_file
from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import agreed, is_first
from neox_eqx.small_files import read_json

NAME = "run.json"
# A file, as NFS does not tell other hosts of a lock on the directory itself.
LOCK = ".lock"
# The number of steps may grow, and then the schedule is that of the new number from there on. The
# commits that weights came from tell a reader where; that they are the same is told by their hash.
_MAY_CHANGE = ("steps", "commit", "adapter_commit")
# Seconds that a host may take to see a file which another has made.
_UNTIL_SEEN = 5


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Makes the directory that of a run, if it is not already.

    Until the block ends it belongs to this program alone.

    Raises:
        InputError: it holds something else, another program is at it, it cannot be made, or it is
            not one directory for all hosts.
    """
    with contextlib.ExitStack() as stack:
        with agreed():
            if is_first():
                stack.enter_context(_locked(directory))
        with agreed():
            if not _is_seen(directory / LOCK):
                raise InputError(
                    f"{directory}: is not the directory that the first process has under this "
                    "name; name an --output that all hosts share"
                )
        yield


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        is_of_a_run = any((directory / name).exists() for name in (LOCK, NAME))
        is_new = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
        if not (is_of_a_run or is_new):
            raise InputError(f"{directory}: holds no run, and is not empty; name another --output")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be made: {error.strerror}") from error
    with open_alone(directory / LOCK, of=directory):
        yield


def _is_seen(path: Path) -> bool:
    """Whether it is there, or soon: a host may remember for a while that it was not."""
    end = time.monotonic() + _UNTIL_SEEN
    while not os.path.exists(path) and time.monotonic() < end:
        for directory in (path.parent.parent, path.parent):
            with contextlib.suppress(OSError):
                os.listdir(directory)  # makes NFS ask again
        time.sleep(0.1)
    return os.path.exists(path)


def keep_settings(directory: Path, settings: Mapping[str, Any], *, goes_on: bool) -> None:
    """Writes down the settings of a run; one that goes on must have the same.

    Raises:
        InputError: they differ, or cannot be read or written.
    """
    path = directory / NAME
    settings = json.loads(json.dumps(settings))  # as they are read again: lists for tuples
    if goes_on:
        _check_equal(directory, read_json(path), settings)
    with whole_file(path) as file:
        file.write(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _check_equal(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in now:
        # A run that is older than a setting ran without what it asks for.
        is_same = before[name] == now[name] if name in before else not now[name]
        if name not in _MAY_CHANGE and not is_same:
            raise InputError(
                f"{directory}: holds a run with another {name}"
                f"{_difference(before.get(name), now[name])}; give what it began with, "
                "or name another --output"
            )


def _difference(before: Any, now: Any) -> str:
    """Both values in brackets, where they are short enough to be read."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    return f" ({texts[0]}, not {texts[1]})" if max(map(len, texts)) <= 20 else ""
