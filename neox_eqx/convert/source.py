"""A checkpoint to convert, whichever of the three layouts it is in."""

import dataclasses
import fnmatch
from pathlib import Path
from typing import Any, Literal

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.files import WEIGHT_FILES, read_entries
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.hub import SMALL_FILES, resolve
from neox_eqx.checkpoint.native import PARAMETERS
from neox_eqx.config import GPTNeoXConfig, read_json
from neox_eqx.errors import InputError

RowBias = Literal["auto", "sum", "first"]
Layout = Literal["hf", "native", "neox"]

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint as found: what its config.json says or would say, and its tensors, unread.

    `entries` have Hugging Face's names as the source spells them and dtypes of their own, in the
    order of the files. `config_json` is the object of the source's own config.json, or one that
    was derived. `files` are those that it was read from, `companions` the tokenizer and
    generation files to carry along byte for byte.
    """

    layout: Layout
    config_json: dict[str, Any]
    entries: list[Entry]
    files: tuple[Path, ...]
    companions: tuple[Path, ...]


def read_source(source: str | Path, **neox_options: Any) -> Source:
    """The checkpoint in a directory, or of a Hub id; the data of its tensors stay where they are.

    `neox_options` are those of `read_neox`, which reads EleutherAI's checkpoints.

    Raises:
        InputError: no such checkpoint, of no known layout, or incomplete or corrupt; or its
            tensors are not those that its config.json asks for.
    """
    from neox_eqx.convert.neox_files import find_step
    from neox_eqx.convert.neox_in import read_neox

    directory = resolve(source)
    weights = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if weights or (directory / PARAMETERS).is_dir():
        found = _read(directory, weights)
    elif find_step(directory):
        found = read_neox(directory, **neox_options)
    else:
        raise InputError(
            f"{directory}: holds no checkpoint; expected {WEIGHT_FILES[0]} or another file of "
            f"Hugging Face's, a native checkpoint's directory {PARAMETERS}, or the file latest or "
            "the layer_*.pt of EleutherAI's"
        )
    fitting(directory, GPTNeoXConfig.from_hf(found.config_json), found.entries)
    return found


def _read(directory: Path, weights: str | None) -> Source:
    """A checkpoint with a config.json; `weights` is Hugging Face's file, None for native."""
    GPTNeoXConfig.from_file(directory / CONFIG)  # its errors name the file
    entries = read_entries(directory)
    if weights:
        files = sorted({directory / weights} | {entry.path for entry in entries})
    else:
        files = sorted(path for path in (directory / PARAMETERS).rglob("*") if path.is_file())
    return Source(
        "hf" if weights else "native",
        read_json(directory / CONFIG),
        entries,
        (directory / CONFIG, *files),
        find_companions(directory),
    )


def find_companions(directory: Path) -> tuple[Path, ...]:
    """The tokenizer and generation files that stand in a directory, by name."""
    patterns = [pattern for pattern in SMALL_FILES if pattern != CONFIG]
    return tuple(
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    )
