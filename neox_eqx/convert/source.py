"""A checkpoint to convert, whichever of the three layouts it is in."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.files import WEIGHT_FILES, read_entries
from neox_eqx.checkpoint.hub import SMALL_FILES, resolve
from neox_eqx.config import read_json
from neox_eqx.errors import InputError

RowBias = Literal["auto", "sum", "first"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint as found: what its config.json says or would say, and its tensors, unread.

    `entries` have Hugging Face's names as the source spells them and dtypes of their own, in the
    order of the files. `config_json` is the object of the source's own config.json, or one that
    was derived. `files` are those that it was read from, `companions` the tokenizer and
    generation files to carry along byte for byte.
    """

    layout: Literal["hf", "native", "neox"]
    config_json: dict[str, Any]
    entries: list[Entry]
    files: tuple[Path, ...]
    companions: tuple[Path, ...]


def read_source(source: str | Path, *, row_bias: RowBias = "auto") -> Source:
    """The checkpoint in a directory, or of a Hub id; the data of its tensors stay where they are.

    `row_bias` is for EleutherAI's checkpoints: what to make of the ranks' copies of a bias.

    Raises:
        InputError: no such checkpoint, of no known layout, or incomplete or corrupt.
    """
    directory = resolve(source)
    raise InputError(f"{directory}: holds no checkpoint that is known")
