"""The checkpoint's tokenizer, and token ids back into text as they come."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from neox_eqx.errors import InputError
from neox_eqx.tokenizer import Tokenizer, token_ids

_CONTEXT = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint in Hugging Face layout.

    Raises:
        InputError: there is no tokenizer.json, or it is broken.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{path}: not found; write it with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise InputError(f"{path}: is not a tokenizer: {error}") from error
    # Files of instruction-tuned models often carry the padding of their training.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def prompt_tokens(tokenizer: Tokenizer, prompt: str, bos: int | None) -> tuple[int, ...]:
    """The ids that a model is given of a prompt; of an empty one, the BOS token.

    Raises:
        InputError: it is not valid Unicode, or empty where there is no BOS token.
    """
    tokens = token_ids(tokenizer, prompt, what="the prompt")
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
        """The text that these tokens complete."""
        pieces = []
        for token in tokens:
            self._ids.append(token)
            text = self._new_text()
            if text and not text.endswith(_REPLACEMENT):
                self._window, self._read = self._read, len(self._ids)
                pieces.append(text)
        return "".join(pieces)

    def end(self) -> str:
        """What is left at the end: an unfinished character shows as U+FFFD."""
        text = self._new_text()
        self._window, self._read = self._read, len(self._ids)
        return text

    def _whole_start(self) -> int:
        """Where a window over the end of the prompt begins, so that it cuts no character."""
        start = max(len(self._ids) - _CONTEXT, 0)
        while start and self._tokenizer.decode(self._ids[start:]).startswith(_REPLACEMENT):
            start -= 1
        return start

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._ids[self._window : self._read])
        now = self._tokenizer.decode(self._ids[self._window :])
        return now[len(before) :]
