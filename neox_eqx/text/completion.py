"""A prompt's completion, and the pieces in which it grows."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request, Row
from neox_eqx.text.tokenizer import Detokenizer
from neox_eqx.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion; its fields are the keys of a line of `neox-eqx generate --output`."""

    prompt: str
    prompt_tokens: tuple[int, ...]
    sample: int
    """Its number among the completions of one prompt, from 0."""
    seed: int
    text: str
    """The completion alone, without special tokens."""
    tokens: tuple[int, ...]
    """The generated ids, with the EOS id if it ended so."""
    finish_reason: str
    """"eos", "stop" or "length"; "error" where it failed, and what is here came before."""
    logprob: float
    """Sum of the tokens' log-probabilities under the model itself, before any processing."""
    score: float | None
    """What beams are ordered by; None without."""
    error: str | None = None
    """Why it failed; a line without an error has no such key."""

    def fields(self) -> dict[str, Any]:
        """The keys and values of a line."""
        fields = dataclasses.asdict(self)
        if self.error is None:
            del fields["error"]
        return fields


@dataclasses.dataclass(frozen=True)
class Event:
    """A token of a completion, as it comes, or the end of one that failed."""

    row: int
    """The number of the completion, in the order in which `TextGenerator.generate` returns them."""
    prompt: str
    text: str
    """The new text; empty where a character needs another token."""
    token: int | None
    """None at the end of a completion that failed."""
    logprob: float | None
    """The token's log-probability under the model itself, before any processing."""
    finish_reason: str | None
    """With the last token: "eos", "stop" or "length"; "error" without one."""
    completion: Completion | None
    """The whole completion, with its last event."""


class GrowingText:
    """One row on its way from tokens to a completion."""

    def __init__(
        self, tokenizer: Tokenizer, number: int, prompt: str, request: Request, sample: int
    ):
        self._tokenizer = tokenizer
        self._number, self._prompt, self._request, self._sample = number, prompt, request, sample
        self._seen = 0
        self._text = ""
        self._has_ended = False

    def read(self, row: Row) -> Iterator[Event]:
        """The events of the row's new tokens; the row fails where the tokenizer breaks down."""
        if self._has_ended:
            return
        for place in range(self._seen, len(row.tokens)):
            is_last = row.finish_reason is not None and place + 1 == len(row.tokens)
            is_end = is_last and row.error is None
            try:
                text = self._new_text(row.tokens[place], is_end)
            except InputError as error:
                row = row.failed(str(error), place)
                break
            self._seen += 1
            yield self._event(row, text, place, is_end)
        if row.error is not None:
            yield self._event(row, "", None, is_end=True)

    def _new_text(self, token: int, is_last: bool) -> str:
        text = self._detokenizer.add([token])
        return text + self._detokenizer.end() if is_last else text

    @cached_property
    def _detokenizer(self) -> Detokenizer:
        return Detokenizer(self._tokenizer, self._request.tokens)

    def _event(self, row: Row, text: str, place: int | None, is_end: bool) -> Event:
        self._text += text
        self._has_ended = is_end
        return Event(
            row=self._number,
            prompt=self._prompt,
            text=text,
            token=None if place is None else row.tokens[place],
            logprob=None if place is None else row.logprobs[place],
            finish_reason=row.finish_reason if is_end else None,
            completion=self._completion(row) if is_end else None,
        )

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
            error=row.error,
        )
