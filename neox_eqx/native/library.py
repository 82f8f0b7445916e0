"""The library in this process: beside the package, else in the user's cache, else built there.

Without it all works in pure JAX. What is missing is said once, in a line on stderr.
"""

import contextlib
import ctypes
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from neox_eqx.native.build import (
    BESIDE,
    BuildError,
    build,
    file_name,
    find_compiler,
    is_whole,
    sources_key,
)
from neox_eqx.output import complain

SWITCH = "NEOX_EQX_NATIVE"
"""The variable that turns the library off with 0, or names an instruction set."""
PRODUCT = f"neox_eqx_product_{sources_key()}"
READ = f"neox_eqx_read_{sources_key()}"
"""What XLA calls the functions. A program that was compiled for others does not find these."""


@cache
def instruction_set() -> str | None:
    """The name of what the library computes with; None where there is none.

    It is loaded here, and built if need be, on the first call. All processes of a pod have it or
    none has: they must run the same program. Where JAX's devices are no CPUs it is not looked for.
    """
    if jax.default_backend() != "cpu":
        return None
    name = _loaded() if os.environ.get(SWITCH) != "0" else None
    if jax.process_count() > 1:
        with jax.ensure_compile_time_eval():
            everywhere = multihost_utils.process_allgather(np.asarray(name is not None))
        name = name if np.all(everywhere) else None
    return name


def is_available() -> bool:
    return instruction_set() is not None


def use(name: str = "", threads: int | None = None) -> str | None:
    """Computes with the instruction set of this name from now on, or with the fastest; its name.

    None, and nothing changes, where this machine has none of that name. At most so many threads
    compute: without a number, as many as this process may use.
    """
    library = _library()
    if library is None:
        return None
    chosen = library.neox_eqx_use(name.encode(), threads or len(os.sched_getaffinity(0)))
    return chosen.decode() if chosen else None


def _loaded() -> str | None:
    wanted = os.environ.get(SWITCH, "")
    name = use(wanted)
    if _library() and not name:
        name = use()
        _say(f"this machine has no instruction set {wanted!r:.80} ({SWITCH}); {name} is used")
    return name


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = _opened(BESIDE / file_name()) or _from_cache()
    except BuildError as error:
        _say(f"products of 16 bits and fewer are slower without the C++ library: {error}")
        return None
    library.neox_eqx_use.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    library.neox_eqx_use.restype = ctypes.c_char_p
    for name, function in ((PRODUCT, library.neox_eqx_product), (READ, library.neox_eqx_read)):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return library


def _from_cache() -> ctypes.CDLL:
    """The library in the user's cache, which is built there if it is not there or is damaged.

    Raises:
        BuildError: it cannot be built, or could not at an earlier try.
    """
    folder = _cache_folder()
    path = folder / file_name()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        with _alone(folder / "lock"):
            library = _opened(path) or _built(path)
    except OSError as error:
        raise BuildError(f"{folder}: {error.strerror}") from error
    return library


def _cache_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "neox_eqx" / "native"
    except RuntimeError as error:
        raise BuildError("there is no home directory to keep it in; set XDG_CACHE_HOME") from error


def _check_owner(folder: Path) -> None:
    """Refuses to run what others may have put there.

    Raises:
        BuildError: it is another user's, or others may write to it.
    """
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others may write to {folder}; make it yours alone, or remove it")


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
    compiler, failed = find_compiler(), path.with_suffix(".failed")
    if failed.exists():
        raise BuildError(f"{failed.read_text('utf-8')} (remove {failed} to try again)")
    if sys.stderr and sys.stderr.isatty():
        _say("compiling products for this machine's processor, once; it takes some seconds")
    try:
        build(path, compiler)
    except BuildError as error:
        failed.write_text(f"{error}", "utf-8")
        raise
    if library := _opened(path):
        return library
    raise BuildError(f"{path} was built and cannot be loaded")


def _opened(path: Path) -> ctypes.CDLL | None:
    """The library at `path`; None where there is none, or one that is of no use, which is said."""
    try:
        if is_whole(path):
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
