"""The library's file: what it is made of, and making it with this machine's C++ compiler.

It needs the headers of jaxlib and nothing of Python, so one file serves all of its versions. An
install runs this file by itself: it imports nothing of the package.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
BESIDE = Path(__file__).parent / "built"
"""Where an install puts the library."""
# No -march: a file for a wider instruction set says so itself, and what runs is chosen as it runs.
# No contraction, which compilers do in one loop and not in another: a row would have other bits in
# a batch.
FLAGS = (
    *("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"),
)
_SECONDS = 300
"""After which a compiler is given up; it takes about fourteen on one core."""
_DIGEST_BYTES = 32


class BuildError(Exception):
    """Why there is no library, and what to do, in one line."""


@cache
def sources_key() -> str:
    """Of the sources and flags: what the library does."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def file_name() -> str:
    """Says the sources, jaxlib's interface and the machine that a library is for."""
    header = (include_dir() / "xla" / "ffi" / "api" / "c_api.h").read_text("utf-8")
    version = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        libc = ""
    machine = f"{platform.system()} {platform.machine()} {libc}".lower()
    parts = [sources_key(), ".".join(version), *re.findall(r"[\w.]+", machine)]
    return f"products-{'-'.join(parts)}.so"


def include_dir() -> Path:
    """jaxlib's headers."""
    import jax.ffi  # here, as an install may have no JAX yet

    return Path(jax.ffi.include_dir())


def build(path: Path, compiler: Sequence[str]) -> None:
    """Writes the library to `path`, which is never there in part; its directory is.

    Raises:
        BuildError: the compiler fails.
        OSError: the file cannot be written.
    """
    common = [*compiler, *FLAGS, "-isystem", str(include_dir())]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as name:
        folder = Path(name)
        commands, objects = [], []
        for source in sorted(SOURCE.glob("*.cc")):
            objects.append(str(folder / f"{source.stem}.o"))
            commands.append([*common, "-c", str(source), "-o", objects[-1]])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        library = folder / path.name
        _run([*compiler, "-shared", *objects, "-o", str(library)])
        _seal(library)
        library.replace(path)


def find_compiler() -> list[str]:
    """The words that start it: of the variable CXX, else the first that is found.

    Raises:
        BuildError: there is none.
    """
    if given := os.environ.get("CXX"):
        return shlex.split(given)
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise BuildError("there is no C++ compiler; install g++ or clang++, or name one in CXX")


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error!s:.300}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), (lines or ["without a word"])[0])
        raise BuildError(f"{command[0]} failed: {first:.300}")


def _seal(path: Path) -> None:
    """Puts a digest behind the library, where loading it does not look."""
    data = path.read_bytes()
    with path.open("ab") as file:
        file.write(hashlib.sha256(data).digest())


def is_whole(path: Path) -> bool:
    """Whether the file is as it was written. To map one that was cut would end the process."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]
