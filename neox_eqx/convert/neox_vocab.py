"""The tokenizer's vocabulary beside an EleutherAI checkpoint, as far as the weights need it."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from neox_eqx.config import read_json
from neox_eqx.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""What every tokenizer of EleutherAI's puts between two documents."""


def read_vocabulary(folders: tuple[Path, ...], settings: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the tokens, from the tokenizer that the run used; empty where it is not there.

    That is the `vocab_file` of the settings, wherever the run had it, or else tokenizer.json.
    """
    told = settings.get("vocab_file")
    names = [PurePosixPath(told).name] if isinstance(told, str) else []
    paths = (folder / name for name in (*names, "tokenizer.json") for folder in folders)
    found = next((path for path in paths if path.suffix == ".json" and path.is_file()), None)
    if found is None:
        return {}
    try:
        return _ids(read_json(found))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{found}: is no tokenizer; get the file again, or remove it") from error


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    if "model" not in tokenizer:  # A vocab.json, as GPT-2's.
        return {token: int(index) for token, index in tokenizer.items()}
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # A Unigram model: tokens with scores, in the ids' order.
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    return {token: int(index) for token, index in {**vocabulary, **added}.items()}
