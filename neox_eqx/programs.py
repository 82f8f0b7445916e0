"""Compiled programs that commands keep, so that only the first run on a machine compiles.

They are JAX's persistent compilation cache, which knows a program by its text, XLA's version and
flags. Here it gets a place, a limit, and an end to what is damaged: JAX would pass that over with a
warning in each run.
"""

import contextlib
import hashlib
import os
import platform
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from neox_eqx.output import complain
from neox_eqx.user_cache import NoFolder, own_folder, owned

SWITCH = "NEOX_EQX_PROGRAMS"
"""The variable that names another directory for them; 0 keeps none."""

MOST_BYTES = 500_000_000
"""Of what is kept; a model's programs have about one megabyte."""

_CPU_BYTES = 20_000
"""Of Linux's list of processors; the first one is in it."""

# What JAX says where an entry cannot be used or written; the name is that of the program.
_SAYS = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '(\w+)': (.*)", re.DOTALL
)


def keep_programs(program: str) -> None:
    """Keeps what the command `program` compiles, unless JAX was told where to, or not to.

    Where nothing can be kept the command goes on without.
    """
    named = os.environ.get(SWITCH)
    if named == "0" or jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        place = owned(Path(named)) if named else own_folder("programs")
        folder = owned(place / _machine())
    except NoFolder as error:
        if named:  # else the user has asked for nothing
            complain(program, f"compiled programs are not kept: {error!s:.300}")
        return
    _remove_oldest(place)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _mend(program, folder)


def _machine() -> str:
    """A name for what runs the same instructions: a home may be shared by several kinds."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = file.read(_CPU_BYTES).split(b"\n")
    except OSError:
        lines = [platform.processor().encode()]
    told = {line for line in lines if re.match(rb"(flags|Features|model name|CPU part)\s*:", line)}
    digest = hashlib.sha256(b"\n".join(sorted(told))).hexdigest()
    return f"{platform.system()}-{platform.machine()}-{digest[:12]}".lower()


def _remove_oldest(place: Path) -> None:
    """Until what is kept is within the limit; what was used last stays."""
    files = sorted(_files(place), key=lambda file: file[0], reverse=True)
    total = 0
    for _, size, path in files:
        total += size
        if total > MOST_BYTES:
            _remove(path)


def _files(place: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was last used, as far as the system keeps that, its size and its path."""
    for path in place.rglob("*"):
        with contextlib.suppress(OSError):  # another process removes too
            status = path.lstat()
            if not path.is_dir():
                yield max(status.st_atime, status.st_mtime), status.st_size, path


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _mend(program: str, folder: Path) -> None:
    """Removes what JAX cannot use, before it compiles it and keeps it anew; that is said once."""
    show, told = warnings.showwarning, set[str]()

    def showwarning(message: Warning | str, *where: Any, **more: Any) -> None:
        said = _SAYS.fullmatch(str(message))
        if not said:
            show(message, *where, **more)
            return
        what, name, reason = said.groups()
        for path in folder.glob(f"{name}-*"):
            _remove(path)
        if what not in told:
            told.add(what)
            ending = "read, and is made anew" if what == "reading" else "kept"
            short = " ".join(reason.split())
            complain(program, f"{folder}: a compiled program cannot be {ending} ({short:.100})")

    # Each time, and not once for each text, so that nothing that is damaged stays.
    warnings.filterwarnings("always", "Error (reading|writing) persistent compilation cache")
    warnings.showwarning = showwarning
