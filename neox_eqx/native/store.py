"""Where the library lies: beside the package, else in the user's cache, where it is built."""

import contextlib
import ctypes
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path

from neox_eqx.native import build
from neox_eqx.native.build import BuildError
from neox_eqx.output import complain
from neox_eqx.user_cache import NoFolder, own_folder


def find(beside: Path = build.BESIDE) -> ctypes.CDLL:
    """The library of an install, which is in `beside`, or of the user's cache.

    It is built there if it is not there, or is damaged. One for another machine or another
    version has another name.

    Raises:
        BuildError: it is not to be had.
    """
    return _opened(beside / build.file_name()) or _from_cache()


def _from_cache() -> ctypes.CDLL:
    """The library in the user's cache, which is built there if it is not there or is damaged.

    Raises:
        BuildError: it cannot be built, or could not at an earlier try.
    """
    try:
        folder = own_folder("native")
        path = folder / build.file_name()
        with _alone(folder / "lock"):
            library = _opened(path) or _built(path)
    except NoFolder as error:
        raise BuildError(f"{error}") from error
    except OSError as error:
        raise BuildError(f"{folder}: {error.strerror}") from error
    return library


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time; where files cannot be locked, several may build."""
    with path.open("ab") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _built(path: Path) -> ctypes.CDLL:
    """Makes the library; that a compiler failed is kept, as it takes its time to.

    Raises:
        BuildError: it is not to be had.
    """
    compiler, failed = build.find_compiler(), path.with_suffix(".failed")
    if failed.exists():
        raise BuildError(f"{failed.read_text('utf-8')} (remove {failed} to try again)")
    if sys.stderr and sys.stderr.isatty():
        _say("compiling products for this machine's processor, once; it takes some seconds")
    try:
        build.build(path, compiler)
        path.chmod(0o600)
    except BuildError as error:
        failed.write_text(f"{error}", "utf-8")
        raise
    if library := _opened(path):
        return library
    raise BuildError(f"{path} was built and cannot be loaded")


def _opened(path: Path) -> ctypes.CDLL | None:
    """The library at `path`; None where there is none, or one that is of no use, which is said."""
    try:
        if build.is_whole(path):
            return ctypes.CDLL(str(path))
        reason = "is damaged"
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = f"cannot be loaded ({error!s:.200})"
    _say(f"{path} {reason}, and is passed over")
    return None


def _say(text: str) -> None:
    complain("neox_eqx", text)
