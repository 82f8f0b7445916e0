"""A checkpoint to convert, whichever of the three layouts it is in."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from neox_eqx.checkpoint.adapter import adapter_file, merged
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.files import ADAPTER_CONFIG, WEIGHT_FILES, read_entries
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.native import PARAMETERS
from neox_eqx.checkpoint.origin import Origin, find, is_tokenizers, stored_as, tokenizer_files
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.small_files import read_json

RowBias = Literal["auto", "sum", "first"]
Layout = Literal["hf", "native", "neox"]

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint as found: what its config.json says or would say, and its tensors, unread.

    `entries` have Hugging Face's names as the source spells them and dtypes of their own, in the
    order of the files. `config_json` is the object of the source's own config.json, or one that
    was derived. `files` are those that it was read from, `companions` the tokenizer and
    generation files to carry along byte for byte, by the names that they get. Paths of what is
    in `directory` begin with it as it was given.
    """

    layout: Layout
    directory: Path
    config_json: dict[str, Any]
    entries: list[Entry]
    files: tuple[Path, ...]
    companions: Mapping[str, Path]
    commits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the Hub, by what they are called in a certificate."""
    adapter: Path | None = None
    """Of a LoRA adapter that `entries` have merged."""

    def all_files(self) -> dict[str, Path]:
        """The files and companions, by their names within the directory or else whole paths."""
        paths = (*self.files, *self.companions.values())
        return {_name(self.directory, path): path for path in paths}


def read_source(
    source: str | Path,
    *,
    revision: str | None = None,
    base: str | Path | None = None,
    tokenizer: str | Path | None = None,
    **neox_options: Any,
) -> Source:
    """The checkpoint in a directory, or of a Hub id; the data of its tensors stay where they are.

    `revision`, `base` and `tokenizer` are those of `find`; `neox_options` those of `read_neox`,
    which reads EleutherAI's checkpoints.

    Raises:
        InputError: no such checkpoint, of no known layout, or incomplete or corrupt; or its
            tensors are not those that its config.json asks for.
    """
    from neox_eqx.convert.neox_files import find_step
    from neox_eqx.convert.neox_in import read_neox

    origin = find(source, revision=revision, base=base, tokenizer=tokenizer)
    directory = origin.directory
    if _has_tensors(directory):
        GPTNeoXConfig.from_file(directory / CONFIG)  # its errors name the file
        found = read_tensors(directory, read_json(directory / CONFIG))
        found = dataclasses.replace(found, files=(directory / CONFIG, *found.files))
    elif find_step(directory):
        other = None if origin.tokenizer == directory else origin.tokenizer
        found = read_neox(directory, tokenizer=other, **neox_options)
    else:
        raise InputError(
            f"{directory}: holds no checkpoint; expected {WEIGHT_FILES[0]} or another file of "
            f"Hugging Face's, a native checkpoint's directory {PARAMETERS}, or the file latest or "
            "the layer_*.pt of EleutherAI's"
        )
    if origin.adapter is not None:
        found = _with_adapter(found, origin.adapter)
    fitting(directory, GPTNeoXConfig.from_hf(found.config_json), found.entries)
    if origin.tokenizer != directory:
        found = dataclasses.replace(found, companions=_with_tokenizer(found, origin.tokenizer))
    return dataclasses.replace(found, commits=origin.commits)


def read_tensors(directory: Path, config_json: dict[str, Any]) -> Source:
    """A checkpoint in Hugging Face's or native layout with this config.json, there or not.

    Raises:
        InputError: there is no such checkpoint, or its files are incomplete or corrupt.
    """
    entries: list[Entry] = read_entries(directory)
    weights = _weight_file(directory)
    if weights:
        files = sorted({weights} | {entry.path for entry in entries})
    else:
        files = sorted(path for path in (directory / PARAMETERS).rglob("*") if path.is_file())
    layout: Layout = "hf" if weights else "native"
    companions = {stored_as(path): path for path in find_companions(directory)}
    return Source(layout, directory, config_json, entries, tuple(files), companions)


def _has_tensors(directory: Path) -> bool:
    return _weight_file(directory) is not None or (directory / PARAMETERS).is_dir()


def _weight_file(directory: Path) -> Path | None:
    """Hugging Face's file of all tensors, or the index of its files."""
    paths = [directory / name for name in WEIGHT_FILES]
    return next((path for path in paths if path.is_file()), None)


def _with_adapter(found: Source, adapter: Path) -> Source:
    tied = GPTNeoXConfig.from_hf(found.config_json).tie_word_embeddings
    entries = merged(adapter, found.entries, tied=tied)
    files = (*found.files, adapter / ADAPTER_CONFIG, adapter_file(adapter))
    return dataclasses.replace(found, entries=entries, files=files, adapter=adapter)


def _with_tokenizer(found: Source, tokenizer: Path) -> dict[str, Path]:
    """The companions, of which the tokenizer's files are replaced by those of another directory."""
    companions = found.companions.items()
    others = {name: path for name, path in companions if not is_tokenizers(Path(name))}
    return others | {stored_as(path): path for path in tokenizer_files(tokenizer)}


def _name(directory: Path, path: Path) -> str:
    within = path.is_relative_to(directory)
    return (path.relative_to(directory) if within else path.absolute()).as_posix()


def find_companions(directory: Path) -> tuple[Path, ...]:
    """The tokenizer and generation files that stand in a directory, by name."""
    return Origin(directory, tokenizer=directory).companions
