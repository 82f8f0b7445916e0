"""What a rounded model is measured on, and what its rounding regards, in tokens."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neox_eqx.convert.hashes import describe_file, describe_text
from neox_eqx.errors import InputError
from neox_eqx.scoring.lines import read_texts
from neox_eqx.small_files import read_text
from neox_eqx.text.tokenizer import load_tokenizer
from neox_eqx.tokenizer import Tokenizer, token_ids

MOST_TOKENS = 16_384
"""Of a text, or of all lines of a sample together: the first of them count."""


@dataclasses.dataclass(frozen=True)
class Text:
    """What models are compared on."""

    tokens: Sequence[int]
    description: dict[str, Any]
    """The name of its file, and size and hash of the text, whose lines end in a mere newline."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Texts that a model is to read, each by itself."""

    rows: Sequence[Sequence[int]]
    description: dict[str, Any]
    """Name, size and hash of their file, and how many tokens there are in `rows`."""


def tokens_of(path: Path, directory: Path) -> Text:
    """The beginning of the text in a file, by the tokenizer in a directory.

    Raises:
        InputError: there is no text or no tokenizer.
    """
    text = read_text(path, by_user=True)
    tokens = token_ids(_tokenizer(directory, "--text"), text, what=str(path))[:MOST_TOKENS]
    if len(tokens) < 2:
        raise InputError(f"{path}: has {len(tokens)} tokens, and two are the least")
    return Text(tokens, {"file": path.name, **describe_text(text)})


def sample_of(path: Path, directory: Path, longest: int) -> Sample:
    """The lines of a file, which are as `neox-eqx score` takes them, each cut to `longest` tokens.

    Raises:
        InputError: there is no text or no tokenizer, or a line is bad.
    """
    tokenizer, rows, count = _tokenizer(directory, "--calibrate"), [], 0
    for name, text in read_texts(path):
        if isinstance(text, InputError):
            raise InputError(f"{name}: {text}")
        row = token_ids(tokenizer, "".join(text), what=name)[: min(longest, MOST_TOKENS - count)]
        rows.append(row)
        count += len(row)
    if not count:
        raise InputError(f"{path}: has no tokens")
    described = {"file": path.name, **describe_file(path), "tokens": count}
    return Sample([row for row in rows if row], described)


def _tokenizer(directory: Path, option: str) -> Tokenizer:
    if not (directory / "tokenizer.json").exists() and not any(directory.glob("*.model")):
        raise InputError(f"{option} needs a tokenizer, and the source has none; add --tokenizer")
    return load_tokenizer(directory)
