"""What a user may ask of generation, and where the rest comes from."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from neox_eqx.errors import InputError
from neox_eqx.generation.option_values import (
    LARGEST,
    Word,
    biases,
    check_number,
    decay,
    early_stopping,
    token_ids,
    words,
    yes_or_no,
)
from neox_eqx.shown import shown

DEFAULT_NEW_TOKENS = 20
DEFAULT_TOP_K = 50

# What a file of transformers calls by another name.
NAMES_IN_FILES = {"bad_words": "bad_words_ids", "stop": "stop_strings"}
_OTHER_FORMS: dict[str, Callable[[str, Any], Any]] = {
    "bad_words": words,
    "stop": words,
    "exponential_decay_length_penalty": decay,
    "sequence_bias": biases,
    "suppress_tokens": token_ids,
    "begin_suppress_tokens": token_ids,
    "early_stopping": early_stopping,
    "renormalize_logits": yes_or_no,
}


class NoRoom(InputError):
    """A prompt fills the positions of the model."""

    def __init__(self, prompt_length: int, context_length: int):
        super().__init__(
            f"the prompt has {prompt_length} tokens, but the model has {context_length} positions; "
            "shorten the prompt"
        )
        self.context_length = context_length


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """Options of one request, with transformers' names and meaning.

    What is None comes from the checkpoint's generation_config.json, or from config.json where it
    has none, else from transformers' defaults: greedy, 20 new tokens; temperature 1 and top_k 50
    where that file asks to sample, top_k 50 where only a temperature is given.
    """

    max_new_tokens: int | None = None
    """Tokens to generate at most."""
    min_new_tokens: int | None = None
    """Tokens to generate before the end of the text may come."""
    min_length: int | None = None
    """The same, counted with the prompt; min_new_tokens is in its place where both are given."""
    temperature: float | None = None
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Sample from the k most likely tokens; 0 is off."""
    top_p: float | None = None
    """Sample from the most likely tokens that together reach this probability; 1 is off."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the most likely one; 0 is off."""
    typical_p: float | None = None
    """Sample from the tokens of nearest to average surprise that together reach this probability;
    1 is off."""
    epsilon_cutoff: float | None = None
    """Drop tokens less likely than this; 0 is off."""
    eta_cutoff: float | None = None
    """The same, and less is dropped where many tokens are likely; 0 is off."""
    repetition_penalty: float | None = None
    """Divides positive logits of tokens in the prompt and the text, and multiplies the others; 1
    is off."""
    presence_penalty: float | None = None
    """Is subtracted from the logits of tokens that were generated; 0 is off."""
    frequency_penalty: float | None = None
    """Is subtracted as often as the token was generated; 0 is off."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """After so many new tokens EOS grows likelier with each, by this factor; a factor of 1 is off.
    """
    no_repeat_ngram_size: int | None = None
    """No so many tokens in a row come twice, the prompt included; 0 is off."""
    logit_bias: Mapping[int | str, float] | None = None
    """From token ids, which may be texts as in JSON, to what is added to their logits."""
    bad_words: tuple[Word, ...] | None = None
    """Texts that are not generated, at the start of a word or within one."""
    suppress_tokens: tuple[int, ...] | None = None
    """Token ids that are not generated."""
    stop: tuple[Word, ...] | None = None
    """Texts that end a completion, and stay in it."""
    num_beams: int | None = None
    """Beams of a search for likely texts; with a temperature their candidates are drawn. 1 is off.
    """
    num_return_sequences: int | None = None
    """Texts to return of those that the beams found, the best first."""
    length_penalty: float | None = None
    """A found text's score is divided by its length to this power; above 0 favours long texts."""
    early_stopping: bool | Literal["never"] | None = None
    """When a search ends: as soon as every beam has found a text, where better ones are unlikely,
    or only where there can be none."""
    num_samples: int = 1
    """Completions of each prompt; they share its prefill."""
    seed: int = 0
    """The same seed gives the same completions, whatever else is in the batch."""

    def resolve(self, defaults: Mapping[str, Any]) -> "ResolvedOptions":
        """Fills what is None from the object of a generation_config.json, or of what stands for it.

        Raises:
            InputError: a value is out of its range, in the options or in the file.
        """
        own = vars(self) | {"sequence_bias": self.logit_bias}
        values: dict[str, Any] = {}
        for field in dataclasses.fields(ResolvedOptions):
            name = field.name
            value = own.get(name)
            if value is None:
                value = defaults.get(NAMES_IN_FILES.get(name, name))
            # As in transformers, a list of one text may be the text itself.
            value = [value] if name == "stop" and isinstance(value, str) else value
            if value is None:
                value = field.default
            elif name in _OTHER_FORMS:
                spelled = "logit_bias" if name == "sequence_bias" and self.logit_bias else name
                value = _OTHER_FORMS[name](spelled, value)
            values[name] = value
        # Without a search, it says nothing.
        if self.num_return_sequences is None and values["num_beams"] == 1:
            values["num_return_sequences"] = 1
        # These are the call's alone, or depend on more than one value.
        values |= {"num_samples": self.num_samples, "seed": self.seed}
        if self.temperature is None and not defaults.get("do_sample"):
            values["temperature"] = 0.0
        return ResolvedOptions(**values)


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """Options of one request with every value settled; as they are by default, they do nothing.

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
        """Of each prompt."""
        return self.num_samples if self.num_beams == 1 else self.num_return_sequences

    def new_tokens(self, prompt_length: int, context_length: int) -> int:
        """How many tokens to generate after a prompt of this length, within the context.

        Raises:
            InputError: the prompt alone fills `max_length` or the context, or what is generated
                at most is less than at least.
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
