"""The tokenizer of an EleutherAI run, as far as it lies beside the checkpoint."""

import dataclasses
import filecmp
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from neox_eqx.convert.neox.settings import Settings
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import MOST_TOKENIZER_BYTES, read_json
from neox_eqx.text.sentence_piece import SentencePieceTokenizer

END_OF_TEXT = "<|endoftext|>"
"""What every tokenizer of EleutherAI's puts between two documents."""

TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The ids of the tokens, and the tokenizer's files by the names that Hugging Face gives them.

    Both are empty without a tokenizer; `files` also where one of its files is missing.
    """

    ids: Mapping[str, int]
    files: Mapping[str, Path]


def read_vocabulary(step: Path, root: Path, settings: Settings) -> Vocabulary:
    """The first of these that is there:

    1. the settings' `vocab_file`, where it is what Hugging Face calls tokenizer.json
    2. tokenizer.json
    3. the `vocab_file` of another kind: GPT-2's with its `merge_file`, or a SentencePiece model

    The settings have the paths of the machine that trained. Here the files are looked for by name,
    beside the checkpoint and in the folder above it.

    Raises:
        InputError: a file is no tokenizer, or a SentencePiece model and the package is missing.
    """
    folders = (step, root, root / "..")
    named = _find(_name(settings, "vocab_file"), folders)
    merges = _find(_name(settings, "merge_file"), folders)
    beside = _find(TOKENIZER, folders[:2])
    if _name(settings, "vocab_file") and not (named or beside):
        warnings.warn(
            f"{settings.where}: its vocab_file {shown(_name(settings, 'vocab_file'))} is not "
            "beside the checkpoint; the result has no tokenizer",
            stacklevel=2,
        )
    found = [_read(path, merges) for path in (named, beside) if path]
    found.sort(key=lambda vocabulary: TOKENIZER not in vocabulary.files)  # a stable sort
    used = found[0] if found else Vocabulary({}, {})
    _warn_of_another(beside, used)
    return used


def _name(settings: Settings, key: str) -> str:
    told = settings.values.get(key)
    return PurePosixPath(told).name if isinstance(told, str) else ""


def _find(name: str, folders: tuple[Path, ...]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read(path: Path, merges: Path | None) -> Vocabulary:
    if path.suffix == ".model":
        return Vocabulary(SentencePieceTokenizer(path, {}).get_vocab(), {path.name: path})
    if path.suffix != ".json":
        return Vocabulary({}, {})
    try:
        values = read_json(path, MOST_TOKENIZER_BYTES)
        # Not only whether there is a "model": GPT-2 has a token of that name.
        if isinstance(values.get("model"), dict):
            return Vocabulary(_ids(values), {TOKENIZER: path})
        ids = _checked(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no tokenizer; get the file again, or remove it") from error
    return Vocabulary(ids, {"vocab.json": path, "merges.txt": merges} if merges else {})


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # A Unigram model: tokens with scores, in the ids' order.
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    return _checked({**vocabulary, **added})


def _checked(ids: dict[str, Any]) -> dict[str, int]:
    if not all(type(id) is int for id in ids.values()):
        raise TypeError("an id is no whole number")
    return ids


def _warn_of_another(beside: Path | None, used: Vocabulary) -> None:
    winner = used.files.get(TOKENIZER, beside)
    if beside and winner and not filecmp.cmp(beside, winner, shallow=False):
        warnings.warn(
            f"{beside}: is left out; the run's settings name {winner.name} as its tokenizer",
            stacklevel=3,
        )
