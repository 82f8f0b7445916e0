"""Files and directories that are whole or not there, each written by one process at a time.

What is to become NAME is `.NAME.partial` beside it until it is whole. It belongs to the process
that holds a lock on it; the system takes the lock away when that process ends, however it ends.
The next process for NAME takes over what a killed one left, so that no litter gathers.
"""

import contextlib
import fcntl
import io
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from neox_eqx.errors import InputError
from neox_eqx.shown import shown


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[io.TextIOWrapper]:
    """A text file to write that takes its name only when the block ends without an error.

    Raises:
        InputError: the file cannot be made or another process writes it, which is known before
            the block begins; or the disk does not take it.
    """
    path, in_place = place_of(path)
    if in_place:
        with _told(path), path.open("w", encoding="utf-8") as file:
            yield file
        return
    partial = _partial(path)
    with _told(path), open_alone(partial, of=path) as raw:
        try:
            raw.truncate(0)
            file = io.TextIOWrapper(raw, encoding="utf-8")
            yield file
            file.flush()
            os.fsync(raw.fileno())
            partial.replace(path)  # while the lock is held, since then it is still ours
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A directory to write into, which takes the name `directory` when the block ends.

    An error or an interruption leaves nothing.

    Raises:
        InputError: there is something already, another process writes it, or it cannot be written.
    """
    try:
        directory = Path(os.path.expanduser(directory)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # A loop of links is a RuntimeError.
        raise InputError(f"{shown(str(directory))}: cannot be a directory: {error}") from error
    if not directory.name:  # the root, which has nothing beside it
        raise InputError(f"{directory}: is not an empty directory; choose another name")
    partial = _partial(directory)
    lock = partial.with_name(f"{partial.name}.lock")
    with _told(directory):
        if not directory.parent.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
        # A file beside it: other hosts do not see the lock of a directory on NFS.
        with open_alone(lock, of=directory):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                _check_absent(directory)
                partial.mkdir()
                yield partial
                os.replace(partial, directory)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)


def _check_absent(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: is not an empty directory; choose another name")
    if directory == Path.cwd():
        # Replaced, it would leave this process in a directory that is gone.
        raise InputError(f"{directory}: is the working directory; choose another name")


def place_of(path: Path) -> tuple[Path, bool]:
    """Where `path` leads through links, which stay; and whether to write to what is there.

    A pipe or a device, as /dev/stdout, is written to, and must not be replaced by a file.

    Raises:
        InputError: it is a directory, or no file can have this name.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory; name a file")
        # Before links are followed: in /proc the link of a pipe leads nowhere.
        if path.exists() and not path.is_file():
            return path, True
        return path.resolve(), False
    except (OSError, ValueError, RuntimeError) as error:  # A loop of links is a RuntimeError.
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown(str(path), 200)}: cannot be written: {reason}") from error


def open_alone(path: Path, *, of: Path) -> IO[bytes]:
    """Opens a file to read and append; until it is closed no other process can open it so.

    Only the process that has it open may move or remove it.

    Raises:
        InputError: it cannot be opened, or another process has it; the message names `of`.
    """
    while True:
        try:
            # A link of this name is not followed: what it leads to is not ours.
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(f"{of}: cannot be written: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise InputError(f"{path}: is a pipe or a device and not a file; remove it")
        file = open(number, "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise InputError(
                f"{of}: another process is writing it; wait for it, or choose another name"
            ) from error
        except OSError:
            pass  # a file system without locks
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(number), os.stat(path, follow_symlinks=False)):
                return file
        file.close()  # the process that had it moved it, after we opened and before we locked it


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Reports the system's error in one line, about `path` or the file that the error names."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader left, which is no mistake
    except OSError as error:
        if error.errno is None:
            raise  # a library's own error, about no file
        # An error in writing an open file names none, and one in copying names both.
        if error.filename and _partial(path).name not in f"{error.filename} {error.filename2}":
            raise InputError(f"{error.filename}: {error.strerror}") from error
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
