"""What a conversion has proved about itself: certificate.json."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.convert.hashes import describe_all, describe_file, describe_tensor
from neox_eqx.convert.source import Source
from neox_eqx.errors import InputError

CERTIFICATE = "certificate.json"
_PACKAGES = (
    "neox_eqx jax jaxlib equinox numpy ml_dtypes orbax-checkpoint tensorstore torch transformers"
).split()


def certify(source: Source, wanted: Source, result: Source, directory: Path) -> dict[str, Any]:
    """The certificate: the files and every tensor of both sides, read again and hashed.

    `wanted` is the source in the dtypes that were asked for, and `result` is what was read back
    from `directory`, all of whose files are described.

    Raises:
        InputError: what was written is not what was to be written.
    """
    return {
        "hashes": "SHA-256; of a tensor, over its values in its dtype, little-endian, row by row",
        "source": {
            "layout": source.layout,
            "directory": str(source.directory.resolve()),
            **source.commits,
            "files": describe_files(source.all_files()),
        },
        "result": {
            "layout": result.layout,
            "files": describe_files(_all_files(directory)),
        },
        "tensors": _compare_tensors(source, wanted, result),
        "versions": _versions(),
    }


def write_certificate(certificate: dict[str, Any], directory: Path) -> None:
    """Writes certificate.json into the directory."""
    text = json.dumps(certificate, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (directory / CERTIFICATE).write_text(text, encoding="utf-8")


def describe_files(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Size and hash of files by their names."""
    found = describe_all(describe_file, paths.values(), "Hashing files")
    return dict(zip(paths, found, strict=True))


def describe_tensors(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """Dtype and hash of tensors by their names."""
    entries = list(entries)
    found = describe_all(describe_tensor, entries, "Hashing tensors")
    return {entry.name: tensor for entry, tensor in zip(entries, found, strict=True)}


def _all_files(directory: Path) -> dict[str, Path]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in paths}


def _compare_tensors(source: Source, wanted: Source, result: Source) -> dict[str, dict[str, Any]]:
    """The shape of each tensor of the source, by its name there, and its hash on both sides.

    A buffer or a copy of the embedding may have no place in the result's layout: then the result's
    hash is None.
    """
    counterparts = _counterparts(wanted, result)
    stored = describe_tensors(source.entries)
    pairs = zip(source.entries, wanted.entries, strict=True)
    changed = {new.name: new for old, new in pairs if new is not old}
    cast = describe_tensors(changed.values())
    written = describe_tensors(result.entries)
    tensors: dict[str, dict[str, Any]] = {}
    for entry in source.entries:
        name, other = entry.name, counterparts.get(entry.name)
        if other and written[other] != (cast.get(name) or stored[name]):
            raise InputError(f"{name} reads back otherwise than it was written; check the disk")
        tensors[name] = {"shape": entry.shape, "source": stored[name], "result": None}
        if other:
            tensors[name]["result"] = written[other]
        if name in cast:
            tensors[name]["cast"] = _change(entry, changed[name])
    return tensors


def _change(old: Entry, new: Entry) -> str:
    if isinstance(new, FewBits):
        return f"{old.dtype.name} rounded to {new.form.name}"
    if isinstance(old, FewBits):
        return f"{old.form.name} as {new.dtype.name}"
    return f"{old.dtype.name} to the nearest {new.dtype.name}"


def _counterparts(wanted: Source, result: Source) -> dict[str, str]:
    """The name that each tensor has in the result, by its name in the source.

    Raises:
        InputError: the result lacks one, or has one too many.
    """
    names = [entry.name for entry in wanted.entries]
    counterparts = {name: name for name in names}
    if result.layout == "neox":
        ours, theirs = _parameters(wanted), _parameters(result)
        counterparts = {ours[key].name: theirs[key].name for key in ours if key in theirs}
    lost = {entry.name for entry in result.entries} ^ set(counterparts.values())
    if lost:
        raise InputError(f"{min(lost)} is on one side of the conversion only; report this")
    return counterparts


def _parameters(source: Source) -> dict[str, Entry]:
    return fitting(source.checkpoint)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions
