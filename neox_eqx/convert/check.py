"""Compares a certificate with the files that stand beside it."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from neox_eqx.checkpoint.hub import resolve
from neox_eqx.convert.certificate import CERTIFICATE, describe_files, describe_tensors
from neox_eqx.convert.read import read_source
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json


def check(directory: Path) -> tuple[int, int]:
    """How many files and tensors of `directory` its certificate lists, all as they are now.

    Raises:
        InputError: names what differs, or there is no certificate.
    """
    directory = resolve(directory).directory
    path = directory / CERTIFICATE
    certificate = read_json(path)
    try:
        files = dict(certificate["result"]["files"])
        sizes = {name: file["bytes"] for name, file in files.items()}
        hashes = {name: file["sha256"] for name, file in files.items()}
        results = [tensor["result"] for tensor in certificate["tensors"].values()]
        expected = sorted(tensor["sha256"] for tensor in results if tensor)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not the certificate of a conversion") from error
    for name, size in sizes.items():
        _check_within(directory, name)
        _check_size(directory / name, size)
    found = describe_files({name: directory / name for name in files})
    for name, file in found.items():
        if file["sha256"] != hashes[name]:
            raise _differs(directory / name, f"SHA-256 is now {file['sha256']}")
    result = read_source(directory)
    for name, read in result.all_files().items():
        if name not in files:
            raise _differs(read, "it came later, and a reader takes it in")
    tensors = describe_tensors(result.entries)
    if sorted(tensor["sha256"] for tensor in tensors.values()) != expected:
        raise _differs(directory, "the tensors in the files are not those it lists")
    return len(files), len(tensors)


def _check_within(directory: Path, name: str) -> None:
    """Refuses a name that leads out of the directory, of which a certificate may not ask."""
    parts = PurePosixPath(name).parts
    if not parts or not name.isprintable() or ".." in parts or name.startswith("/"):
        raise InputError(f"{directory / CERTIFICATE}: lists {shown(name)}, which is no file here")
    real = Path(os.path.realpath(directory))
    # In the Hub's cache a file is a link to what it holds.
    homes = [real, real.parents[1] / "blobs"] if real.parent.name == "snapshots" else [real]
    target = Path(os.path.realpath(directory / name))
    if not any(target.is_relative_to(home) for home in homes):
        raise InputError(f"{directory / name}: is a link out of the directory; copy the file there")


def _check_size(path: Path, size: Any) -> None:
    try:
        found = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise InputError(f"{str(path)[:80]}: cannot be a file: {error.strerror}") from error
    if found is None:
        raise _differs(path, "the file is missing")
    if found != size:
        raise _differs(path, f"it has {found} bytes, not {shown(size, 40)}")


def _differs(path: Path, how: str) -> InputError:
    return InputError(f"{path}: differs from {CERTIFICATE}: {how}")
