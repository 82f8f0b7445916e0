"""The tokenizer's vocabulary beside an EleutherAI checkpoint, as far as the weights need it."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from neox_eqx.config import read_json

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
    tokenizer = read_json(found)
    if "model" not in tokenizer:  # A vocab.json, as GPT-2's.
        return _ids(tokenizer)
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # A Unigram model: tokens with scores, in the ids' order.
        vocabulary = {str(token): index for index, (token, *_) in enumerate(vocabulary)}
    ids = _ids(vocabulary or {})
    return ids | {token["content"]: token["id"] for token in added}


def _ids(vocabulary: Mapping[str, Any]) -> dict[str, int]:
    return {token: index for token, index in vocabulary.items() if isinstance(index, int)}
