"""Holds a certificate against the files that stand beside it."""

from pathlib import Path
from typing import Any

from neox_eqx.config import read_json
from neox_eqx.convert.certificate import CERTIFICATE, describe_files, describe_tensors
from neox_eqx.convert.source import read_source
from neox_eqx.errors import InputError


def check(directory: Path) -> tuple[int, int]:
    """The numbers of files and of tensors in `directory` that are as its certificate says.

    Raises:
        InputError: names what differs, or there is no certificate.
    """
    path = directory / CERTIFICATE
    certificate = read_json(path)
    try:
        files = dict(certificate["result"]["files"])
        sizes = {name: file["bytes"] for name, file in files.items()}
        results = [tensor["result"] for tensor in certificate["tensors"].values()]
        expected = sorted(tensor["sha256"] for tensor in results if tensor)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not the certificate of a conversion") from error
    for name, size in sizes.items():
        _check_size(directory / name, size)
    for name, found in describe_files(directory, (directory / name for name in files)).items():
        if found != files[name]:
            raise _differs(directory / name, f"SHA-256 is now {found['sha256']}")
    result = read_source(directory)
    for read in (*result.files, *result.companions):
        if read.relative_to(directory).as_posix() not in files:
            raise _differs(read, "it came later, and a reader takes it in")
    tensors = describe_tensors(result.entries)
    if sorted(tensor["sha256"] for tensor in tensors.values()) != expected:
        raise _differs(directory, "the tensors in the files are not those it lists")
    return len(files), len(tensors)


def _check_size(path: Path, size: Any) -> None:
    if not path.is_file():
        raise _differs(path, "the file is missing")
    if path.stat().st_size != size:
        raise _differs(path, f"it has {path.stat().st_size} bytes, not {size}")


def _differs(path: Path, how: str) -> InputError:
    return InputError(f"{path}: differs from {CERTIFICATE}: {how}")
