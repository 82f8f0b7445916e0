"""A checkpoint to convert, whichever of the three layouts it is in."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.few_bits import joined
from neox_eqx.checkpoint.files import WEIGHT_FILES, read_entries
from neox_eqx.checkpoint.native import PARAMETERS
from neox_eqx.checkpoint.origin import Origin, stored_as
from neox_eqx.config import GPTNeoXConfig, weights_form
from neox_eqx.model.formats import form_of

Layout = Literal["hf", "native", "neox"]

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint in any layout, with tensors that are not read yet.

    `entries` have Hugging Face's names as the source spells them, and each its own dtype; they
    stand in the order of the files. `config_json` is the source's own config.json, or one that was
    made from its settings. `files` are those that it was read from. `companions` are the files of
    tokenizer and generation, which are copied byte for byte, by the names that they get. Paths
    begin with `directory` as it was given.
    """

    layout: Layout
    directory: Path
    config_json: dict[str, Any]
    entries: list[Entry]
    files: tuple[Path, ...]
    companions: Mapping[str, Path]
    commits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The Hub's commits, by what a certificate calls them."""
    adapter: Path | None = None
    """The LoRA adapter that is merged into `entries`."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Its tensors with the config that they are to fit.

        Raises:
            InputError: config.json describes no model that this package has.
        """
        config = GPTNeoXConfig.from_hf(self.config_json)
        return Checkpoint(self.directory, config, self.entries, self.form)

    @property
    def form(self) -> str | None:
        """The name of the form in few bits that its weights are in."""
        return weights_form(self.config_json)

    def all_files(self) -> dict[str, Path]:
        """The files and companions, by their names within the directory or else whole paths."""
        paths = (*self.files, *self.companions.values())
        return {_name(self.directory, path): path for path in paths}


def read_tensors(directory: Path, config_json: dict[str, Any]) -> Source:
    """A checkpoint in Hugging Face's or native layout; its config.json need not be there yet.

    Raises:
        InputError: there is no such checkpoint, or its files are incomplete or corrupt.
    """
    entries: list[Entry] = read_entries(directory)
    if form := weights_form(config_json):
        entries = joined(entries, GPTNeoXConfig.from_hf(config_json), form_of(form))
    weights = weight_file(directory)
    if weights:
        files = sorted({weights} | {entry.path for entry in entries})
    else:
        files = sorted(path for path in (directory / PARAMETERS).rglob("*") if path.is_file())
    layout: Layout = "hf" if weights else "native"
    companions = {stored_as(path): path for path in find_companions(directory)}
    return Source(layout, directory, config_json, entries, tuple(files), companions)


def weight_file(directory: Path) -> Path | None:
    """Hugging Face's file of all tensors, or the index of its files."""
    paths = [directory / name for name in WEIGHT_FILES]
    return next((path for path in paths if path.is_file()), None)


def _name(directory: Path, path: Path) -> str:
    within = path.is_relative_to(directory)
    return (path.relative_to(directory) if within else path.absolute()).as_posix()


def find_companions(directory: Path) -> tuple[Path, ...]:
    """The tokenizer and generation files that stand in a directory, by name."""
    return Origin(directory, tokenizer=directory).companions
