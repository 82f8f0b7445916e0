"""Where a model was found: its weights, its adapter and its tokenizer."""

import dataclasses
import fnmatch
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.adapter_config import LoraSettings, read_lora_settings
from neox_eqx.checkpoint.files import ADAPTER_CONFIG
from neox_eqx.checkpoint.hub import (
    GENERATION_CONFIG,
    MORE_TEMPLATES,
    TOKENIZER_FILES,
    Resolved,
    Wanted,
    resolve,
)
from neox_eqx.errors import InputError

_HOLD_TOKENIZERS = ("tokenizer.json", "vocab.json", "*.model")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The directories that a model is read from, and their commits where they are the Hub's."""

    directory: Path
    """Of config.json, the weights and generation_config.json."""
    tokenizer: Path
    """The directory of the tokenizer and its chat template."""
    name: str = ""
    """What PEFT is given to find the model by: a Hub id or a whole path."""
    revision: str | None = None
    """The branch, tag or commit of the Hub that was asked for."""
    commit: str | None = None
    adapter: Path | None = None
    """Of a LoRA adapter that is added to the weights."""
    adapter_commit: str | None = None

    @property
    def commits(self) -> dict[str, str]:
        """The Hub's commits, by what certificates and run.json call them."""
        both = {"commit": self.commit, "adapter_commit": self.adapter_commit}
        return {name: commit for name, commit in both.items() if commit}

    @property
    def companions(self) -> tuple[Path, ...]:
        """The tokenizer and generation files that go with the weights, by name."""
        settings = self.directory / GENERATION_CONFIG
        both = {stored_as(path): path for path in tokenizer_files(self.tokenizer)}
        both |= {GENERATION_CONFIG: settings} if settings.is_file() else {}
        return tuple(both[name] for name in sorted(both))


@dataclasses.dataclass(frozen=True)
class OriginOptions:
    """Where to look for a model, beside its name."""

    revision: str | None = None
    """A branch, tag or commit of a Hub id, such as step3000; or name it ID@step3000."""
    base: str | None = None
    """The model that a LoRA adapter is for, if it is not where the adapter says."""

    def find(self, source: str | Path, *, config_only: bool = False) -> Origin:
        """As `find`, with these options."""
        return find(source, **self.arguments, config_only=config_only)

    def check_unused(self, option: str) -> None:
        """Refuses these options beside an `option` that names no model.

        Raises:
            InputError: one is given; the message names it.
        """
        for name, value in self.arguments.items():
            if value is not None:
                raise InputError(
                    f"--{name} says where to find a model, and {option} names none; "
                    "leave one of them out"
                )

    @property
    def arguments(self) -> dict[str, Any]:
        """The options by name, as arguments of `find`, `load` and the like."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class TextOriginOptions(OriginOptions):
    """Where to look for a model and its tokenizer, beside its name."""

    tokenizer: str | None = None
    """A directory or Hub id with the tokenizer, if not the adapter's or the model's own."""


def find(
    source: str | Path,
    *,
    revision: str | None = None,
    base: str | Path | None = None,
    tokenizer: str | Path | None = None,
    config_only: bool = False,
) -> Origin:
    """Where a model is: a directory, a Hub id, or one with its revision as in ID@step3000.

    `config_only` asks for the shape of a model and leaves its weights where they are.

    A LoRA adapter is a model too, that of its base with what it adds.

    Raises:
        InputError: something is not there; or an option is of no use.
    """
    wanted: Wanted = "config" if config_only else "all"
    resolved, adapter = resolve(source, revision, wanted=wanted), None
    if is_adapter(resolved.directory):
        adapter, resolved = resolved, _base_of(resolved.directory, base, wanted)
    elif base is not None:
        raise InputError(
            f"{source}: is no LoRA adapter, as it holds no {ADAPTER_CONFIG}, and so has no base"
        )
    words = resolved.directory
    if tokenizer is not None:
        words = resolve(tokenizer, wanted="tokenizer").directory
    elif adapter is not None and has_tokenizer(adapter.directory):
        words = adapter.directory
    origin = Origin(resolved.directory, words, resolved.name, resolved.revision, resolved.commit)
    if adapter is None:
        return origin
    return dataclasses.replace(origin, adapter=adapter.directory, adapter_commit=adapter.commit)


def is_adapter(directory: Path) -> bool:
    """Whether it holds an adapter of PEFT's, of whatever kind."""
    return (directory / ADAPTER_CONFIG).is_file()


def _base_of(adapter: Path, base: str | Path | None, wanted: Wanted) -> Resolved:
    """The model that an adapter is for."""
    settings = read_lora_settings(adapter)
    if base is None and not settings.base:
        raise InputError(f"{adapter}: does not name its base; name it with --base MODEL")
    try:
        resolved = resolve(base, wanted=wanted) if base else _named_base(adapter, settings, wanted)
    except InputError as error:
        raise InputError(
            f"{adapter}: its base is not found: {error}; or name the base with --base MODEL"
        ) from error
    if is_adapter(resolved.directory):
        raise InputError(
            f"{resolved.directory}: is an adapter and no base of {adapter}; merge it into its "
            "model with neox-eqx convert --to hf"
        )
    return resolved


def _named_base(adapter: Path, settings: LoraSettings, wanted: Wanted) -> Resolved:
    """What the adapter's config names: a directory from here or from the adapter, or a Hub id."""
    name = settings.base or ""
    for directory in (Path(name), adapter / name):
        if os.path.isdir(directory):  # where Path.is_dir raises, as at a name that is too long
            return resolve(directory)
    return resolve(name, settings.revision, wanted=wanted)


def tokenizer_files(directory: Path) -> Iterator[Path]:
    """The files in a directory that a tokenizer and its templates are made of."""
    for path in (*sorted(directory.iterdir()), *sorted(directory.glob(MORE_TEMPLATES))):
        if path.is_file() and is_tokenizers(path):
            yield path


def is_tokenizers(path: Path) -> bool:
    """Whether a file of this name is one of a tokenizer's."""
    return _is_one_of(stored_as(path), (*TOKENIZER_FILES, MORE_TEMPLATES))


def stored_as(path: Path) -> str:
    """The name of a tokenizer's or settings' file within a checkpoint's directory."""
    within = f"{path.parent.name}/{path.name}"
    return within if fnmatch.fnmatch(within, MORE_TEMPLATES) else path.name


def copy_companions(companions: Mapping[str, Path], directory: Path) -> None:
    """Copies files of a tokenizer and settings into a directory, by the names that they get."""
    for name, path in companions.items():
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, directory / name)


def has_tokenizer(directory: Path) -> bool:
    return any(_is_one_of(path.name, _HOLD_TOKENIZERS) for path in tokenizer_files(directory))


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
