"""What a user may ask of generation, and where the rest comes from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from neox_eqx.errors import InputError
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.options.values import (
    Word,
    biases,
    decay,
    early_stopping,
    token_ids,
    words,
    yes_or_no,
)
from neox_eqx.shown import hint

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

    def changed(self, values: Mapping[str, Any]) -> "GenerationOptions":
        """These options with other values for some, by name.

        Raises:
            InputError: there is no option of a name.
        """
        names = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(values.keys() - set(names))
        if unknown:
            advice = hint(unknown[0], names, f"there are {', '.join(names)}")
            raise InputError(f"unknown option {', '.join(unknown):.200}; {advice}")
        return dataclasses.replace(self, **values)

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
