"""The checkpoint's tokenizer, and token ids back into text as they come."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.small_files import read_json
from neox_eqx.text.added_tokens import CONFIG
from neox_eqx.text.sentence_piece import SentencePieceTokenizer, sentencepiece_file
from neox_eqx.text.tokenizer_class import class_of
from neox_eqx.text.tokenizer_json import read_tokenizer_json, read_vocab_and_merges
from neox_eqx.tokenizer import Tokenizer, text_of, token_ids

_CONTEXT = 8
"""Tokens of the prompt before those that are decoded; a character has a few at most."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory: what transformers' AutoTokenizer makes of it.

    That is tokenizer.json under what tokenizer_config.json says, or vocab.json with merges.txt.
    A SentencePiece model is read by SentencePiece itself, where there is no tokenizer.json, and
    also beside one where the class is T5Tokenizer, as in rinna's and LINE's repositories: what
    transformers converts for that class begins every text with a space, ends it with `</s>`,
    and loses the model's bytes. Decoding is plain: `clean_up_tokenization_spaces` is not applied.

    Raises:
        InputError: there is no tokenizer, or it is broken.
    """
    try:
        return _load(directory)
    except InputError as error:
        where = "" if str(error).startswith(str(directory)) else f"{directory}: "
        raise InputError(f"{where}{error}") from error


def _load(directory: Path) -> Tokenizer:
    options = _object(directory / CONFIG)
    name = class_of(options, _object(directory / "config.json"))
    whole = directory / "tokenizer.json"
    if whole.is_file() and name != "T5Tokenizer":
        return read_tokenizer_json(whole, name, options)
    if pieces := sentencepiece_file(directory):
        return SentencePieceTokenizer(pieces, options)
    if whole.is_file():
        return read_tokenizer_json(whole, name, options)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return read_vocab_and_merges(directory, name, options)
    raise InputError(
        f"{directory}: holds no tokenizer (no tokenizer.json, no SentencePiece *.model, no "
        "vocab.json with merges.txt); put the model's own there, or name its directory with "
        "--tokenizer DIR"
    )


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def prompt_tokens(
    tokenizer: Tokenizer, prompt: str, bos: int | None, *, add_special_tokens: bool = True
) -> tuple[int, ...]:
    """The ids of a prompt as a model is given them; for an empty one, the BOS token.

    Raises:
        InputError: it is not valid Unicode, or empty where there is no BOS token.
    """
    tokens = token_ids(tokenizer, prompt, add_special_tokens=add_special_tokens, what="the prompt")
    if tokens:
        return tokens
    if bos is None:
        raise InputError("the prompt is empty and the model has no BOS token to begin with")
    return (bos,)


class Detokenizer:
    """Turns one row's tokens into text piece by piece; the pieces join to the whole text.

    A token may end inside a character (Korean, emoji), and a tokenizer may drop a space at the
    start of a text. So a window that begins before the new tokens is decoded with and without
    them, and the difference is new; it waits while it ends inside a character.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]):
        self._tokenizer = tokenizer
        self._ids = list(prompt)
        self._window, self._read = self._whole_start(), len(prompt)

    def add(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete.

        Raises:
            InputError: the tokenizer breaks down over them.
        """
        pieces = []
        for token in tokens:
            self._ids.append(token)
            text = self._new_text()
            if text and not text.endswith(_REPLACEMENT):
                self._window, self._read = self._read, len(self._ids)
                pieces.append(text)
        return "".join(pieces)

    def end(self) -> str:
        """The rest of the text; an unfinished character shows as U+FFFD."""
        text = self._new_text()
        self._window, self._read = self._read, len(self._ids)
        return text

    def _whole_start(self) -> int:
        """Where a window over the end of the prompt begins, so that it cuts no character."""
        start = max(len(self._ids) - _CONTEXT, 0)
        while start and text_of(self._tokenizer, self._ids[start:]).startswith(_REPLACEMENT):
            start -= 1
        return start

    def _new_text(self) -> str:
        before = text_of(self._tokenizer, self._ids[self._window : self._read])
        now = text_of(self._tokenizer, self._ids[self._window :])
        return now[len(before) :]
