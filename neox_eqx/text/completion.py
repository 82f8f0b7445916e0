"""What comes of a prompt: a text that grows in pieces, and is a completion at the end."""

import dataclasses
from collections.abc import Iterator

from neox_eqx.generation.run import Request, Row
from neox_eqx.text.tokenizer import Detokenizer
from neox_eqx.tokenizer import Tokenizer


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
    score: float | None
    """What beams are ordered by; None without."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A token of a completion, as it comes."""

    row: int
    """Of the completion, in the order in which `TextGenerator.generate` returns them."""
    prompt: str
    text: str
    """What can be read now: nothing where a character needs another token."""
    token: int
    logprob: float
    """Of the token under the model itself, before any processing."""
    finish_reason: str | None
    """With the last token: "eos", "stop" or "length"."""
    completion: Completion | None
    """With the last token: the whole."""


class GrowingText:
    """One row on its way from tokens to a completion."""

    def __init__(
        self, tokenizer: Tokenizer, number: int, prompt: str, request: Request, sample: int
    ):
        self._number, self._prompt, self._request, self._sample = number, prompt, request, sample
        self._detokenizer = Detokenizer(tokenizer, request.tokens)
        self._seen = 0
        self._text = ""

    def read(self, row: Row) -> Iterator[Event]:
        """The events of the row's new tokens."""
        for place in range(self._seen, len(row.tokens)):
            token = row.tokens[place]
            text = self._detokenizer.add([token])
            is_last = row.finish_reason is not None and place + 1 == len(row.tokens)
            if is_last:
                text += self._detokenizer.end()
            self._text += text
            yield Event(
                row=self._number,
                prompt=self._prompt,
                text=text,
                token=token,
                logprob=row.logprobs[place],
                finish_reason=row.finish_reason if is_last else None,
                completion=self._completion(row) if is_last else None,
            )
        self._seen = len(row.tokens)

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
            score=row.score,
        )
