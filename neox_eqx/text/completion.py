"""What comes of a prompt: a text that grows in pieces, and is a completion at the end."""

import dataclasses
from collections.abc import Iterator

from tokenizers import Tokenizer

from neox_eqx.generation.run import Request, Row
from neox_eqx.text.tokenizer import Detokenizer


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion; its fields are the keys of a line of `generate.py --output`."""

    prompt: str
    prompt_tokens: tuple[int, ...]
    sample: int
    """0, 1, ... among the completions of one prompt."""
    seed: int
    text: str
    """The completion alone, without special tokens."""
    tokens: tuple[int, ...]
    """The generated ids, with the EOS id if it ended so."""
    finish_reason: str
    """"eos", "stop" or "length"."""
    logprob: float
    """Sum of the tokens' log-probabilities under the model itself, before any processing."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text that a completion grew by; `completion` is there with its last piece."""

    number: int
    """Of the completion, in the order in which `TextGenerator.generate` returns them."""
    text: str
    completion: Completion | None


class GrowingText:
    """One row on its way from tokens to a completion."""

    def __init__(
        self, tokenizer: Tokenizer, number: int, prompt: str, request: Request, sample: int
    ):
        self._number, self._prompt, self._request, self._sample = number, prompt, request, sample
        self._detokenizer = Detokenizer(tokenizer, request.tokens)
        self._seen = 0
        self._text = ""
        self._finished = False

    def read(self, row: Row) -> Iterator[Piece]:
        """The piece that the row's new tokens complete, if there is one."""
        if self._finished:
            return
        text = self._detokenizer.add(row.tokens[self._seen :])
        self._seen = len(row.tokens)
        self._finished = row.finish_reason is not None
        if self._finished:
            text += self._detokenizer.end()
        self._text += text
        if text or self._finished:
            yield Piece(self._number, text, self._completion(row) if self._finished else None)

    def _completion(self, row: Row) -> Completion:
        assert row.finish_reason
        return Completion(
            prompt=self._prompt,
            prompt_tokens=self._request.tokens,
            sample=self._sample,
            seed=self._request.options.seed,
            text=self._text,
            tokens=row.tokens,
            finish_reason=row.finish_reason,
            logprob=row.logprob,
        )
