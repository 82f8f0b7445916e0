"""Options of generation with every value settled, and what they allow a prompt."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from neox_eqx.errors import InputError
from neox_eqx.generation.options.values import LARGEST, Word, check_number
from neox_eqx.shown import shown

DEFAULT_NEW_TOKENS = 20
DEFAULT_TOP_K = 50
"""Both are transformers' defaults."""


class NoRoom(InputError):
    """A prompt fills the positions of the model."""

    def __init__(self, prompt_length: int, context_length: int):
        super().__init__(
            f"the prompt has {prompt_length} tokens, but the model has {context_length} positions; "
            "shorten the prompt"
        )
        self.context_length = context_length


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """Options of one request with every value settled; the defaults are transformers', sampling.

    Raises:
        InputError: a value is out of its range; the message names the option.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    temperature: float = 1.0
    top_k: int = DEFAULT_TOP_K
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    exponential_decay_length_penalty: tuple[int, float] = (0, 1.0)
    no_repeat_ngram_size: int = 0
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    bad_words: tuple[Word, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    stop: tuple[Word, ...] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    renormalize_logits: bool = False
    num_samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("max_new_tokens", 1), ("max_length", 1), ("min_new_tokens", 0)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), int, low)
        for name in ("min_length", "top_k", "no_repeat_ngram_size"):
            check_number(name, getattr(self, name), int, 0)
        check_number("temperature", self.temperature, float, 0)
        for name in ("top_p", "min_p", "epsilon_cutoff", "eta_cutoff"):
            check_number(name, getattr(self, name), float, 0, 1)
        check_number("typical_p", self.typical_p, float, 0, 1, above=True)
        check_number("repetition_penalty", self.repetition_penalty, float, 0, LARGEST, above=True)
        for name in ("presence_penalty", "frequency_penalty"):
            check_number(name, getattr(self, name), float, -LARGEST, LARGEST)
        for name in ("num_beams", "num_return_sequences", "num_samples"):
            check_number(name, getattr(self, name), int, 1)
        check_number("length_penalty", self.length_penalty, float, -LARGEST, LARGEST)
        check_number("seed", self.seed, int, 0, 2**32 - 1)
        self._check_beams()

    @property
    def num_completions(self) -> int:
        """Completions that are returned for each prompt."""
        return self.num_samples if self.num_beams == 1 else self.num_return_sequences

    def new_tokens(self, prompt_length: int, context_length: int) -> int:
        """How many tokens to generate after a prompt of this length, within the context.

        Raises:
            InputError: the prompt alone fills `max_length` or the context (NoRoom), or the text
                cannot become as long as `min_new_tokens` or `min_length` asks.
        """
        room = context_length - prompt_length
        if room < 1:
            raise NoRoom(prompt_length, context_length)
        wanted = self.max_new_tokens
        if wanted is None and self.max_length is not None:
            wanted = self.max_length - prompt_length
            if wanted < 1:
                raise InputError(
                    f"the prompt has {prompt_length} tokens, but the checkpoint sets "
                    f"max_length {self.max_length}; pass --max-new-tokens"
                )
        most = min(DEFAULT_NEW_TOKENS if wanted is None else wanted, room)
        self._check_least(most, prompt_length)
        return most

    @property
    def bad_words_ids(self) -> tuple[tuple[int, ...], ...]:
        """The bad words, all of which are token ids by now."""
        return tuple(word for word in self.bad_words if not isinstance(word, str))

    @property
    def stop_sequences(self) -> tuple[tuple[int, ...], ...]:
        """What to stop at that is spelled in token ids."""
        return tuple(word for word in self.stop if not isinstance(word, str))

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """What to stop at that is text."""
        return tuple(word for word in self.stop if isinstance(word, str))

    def check_ids(self, vocab_size: int) -> None:
        """Raises unless all token ids are of this vocabulary.

        Raises:
            InputError: one is not, or a bad word is still text.
        """
        for name, ids in self._named_ids():
            wrong = next((id for id in ids if not 0 <= id < vocab_size), None)
            if wrong is not None:
                raise InputError(
                    f"{name}: token id {wrong} is not in the model's vocabulary of {vocab_size}"
                )
        for word in self.bad_words:
            if isinstance(word, str):
                raise InputError(
                    f"bad_words: {shown(word)} is a text; without a tokenizer give its ids"
                )

    def _named_ids(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from (("logit_bias", ids) for ids, _ in self.sequence_bias)
        yield from (("bad_words", ids) for ids in self.bad_words_ids)
        yield from (("stop", ids) for ids in self.stop_sequences)
        yield "suppress_tokens", self.suppress_tokens
        yield "begin_suppress_tokens", self.begin_suppress_tokens

    def _check_beams(self) -> None:
        if self.num_beams > 1 and self.num_samples > 1:
            raise InputError(
                f"num_samples is {self.num_samples} and num_beams {self.num_beams}: a search has "
                "one set of beams; give num_return_sequences for more of its texts, or num_beams 1"
            )
        if self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences is {self.num_return_sequences}, but num_beams "
                f"{self.num_beams}; for samples give num_samples"
            )

    def _check_least(self, most: int, prompt_length: int) -> None:
        if self.min_new_tokens is not None:
            name, least = "min_new_tokens", self.min_new_tokens
            limit, text = most, f"{most} new tokens"
        else:
            name, least = "min_length", self.min_length
            limit = most + prompt_length
            text = f"{limit} tokens, {prompt_length} of the prompt and {most} new ones"
        if least > limit:
            raise InputError(f"{name} is {least}, but the text has at most {text}")
