"""A directory that comes into being whole."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from neox_eqx.errors import InputError
from neox_eqx.shown import shown


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A directory to write into, which takes the name `directory` when the block ends.

    An error or an interruption leaves nothing. A killed process leaves a hidden directory beside
    it, which the next one for the same name removes.

    Raises:
        InputError: there is something already, or it cannot be written.
    """
    try:
        directory = Path(os.path.expanduser(directory)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # A loop of links is a RuntimeError.
        raise InputError(f"{shown(str(directory))}: cannot be a directory: {error}") from error
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: is not an empty directory; choose another name")
        if directory == Path.cwd():
            # It would be replaced, and the process be left in one that is no more.
            raise InputError(f"{directory}: is the working directory; choose another name")
        partial = directory.with_name(f"{_prefix(directory)}{os.getpid()}")
        _remove_abandoned(directory)
        partial.mkdir(parents=True)
        try:
            with _locked(partial):
                yield partial
                os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if error.errno is None:
            raise  # a library's own, which says nothing of a file
        if error.filename and _prefix(directory) not in str(error.filename):
            raise InputError(f"{error.filename}: {error.strerror}") from error
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds a lock that ends with this process, however that ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(directory: Path) -> None:
    parent = directory.parent
    for path in parent.iterdir() if parent.is_dir() else ():
        # One that is locked belongs to a process that still writes.
        with contextlib.suppress(BlockingIOError):
            if path.name.startswith(_prefix(directory)) and path.is_dir():
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)


def _prefix(directory: Path) -> str:
    """What the names of the directories begin with that are to become this one."""
    return f".{directory.name}.partial-"
