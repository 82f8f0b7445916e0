"""What this user's commands keep from run to run: nobody else's, as some of it is run."""

import os
import stat
from pathlib import Path


class NoFolder(Exception):
    """Why there is no folder to keep it in, and what to do, in one line."""


def own_folder(name: str) -> Path:
    """The folder `name` of this package in the user's cache, made where it is not there.

    Raises:
        NoFolder: it cannot be made, or others may write to it.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        path = (Path(given) if given else Path.home() / ".cache") / "neox_eqx" / name
    except RuntimeError as error:
        raise NoFolder("there is no home directory to keep it in; set XDG_CACHE_HOME") from error
    return owned(path)


def owned(path: Path) -> Path:
    """The folder `path`, made where it is not there.

    Raises:
        NoFolder: it cannot be made, or others may write to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except (OSError, ValueError) as error:
        raise NoFolder(f"{path}: {getattr(error, 'strerror', error)}") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoFolder(f"others may write to {path}; make it yours alone, or remove it")
    return path
