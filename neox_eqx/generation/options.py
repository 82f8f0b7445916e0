"""What a user may ask of generation, and where the rest comes from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from neox_eqx.errors import InputError

DEFAULT_NEW_TOKENS = 20
DEFAULT_TOP_K = 50


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """Options of one request, with transformers' names and meaning.

    What is None comes from the checkpoint's generation_config.json, else from transformers'
    defaults: greedy, 20 new tokens; temperature 1 and top_k 50 where that file asks to sample,
    top_k 50 where only a temperature is given.
    """

    max_new_tokens: int | None = None
    """Tokens to generate at most."""
    temperature: float | None = None
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Sample from the k most likely tokens; 0 is off."""
    top_p: float | None = None
    """Sample from the most likely tokens that together reach this probability; 1 is off."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the most likely one; 0 is off."""
    num_samples: int = 1
    """Completions of each prompt; they share its prefill."""
    seed: int = 0
    """The same seed gives the same completions, whatever else is in the batch."""

    def resolve(self, defaults: Mapping[str, Any]) -> "ResolvedOptions":
        """Fills what is None from the object of a generation_config.json.

        Raises:
            InputError: a value is out of its range, in the options or in the file.
        """
        sampled = bool(defaults.get("do_sample"))
        temperature = self.temperature
        if temperature is None:
            temperature = _first(defaults.get("temperature"), 1.0) if sampled else 0.0
        return ResolvedOptions(
            max_new_tokens=_first(self.max_new_tokens, defaults.get("max_new_tokens")),
            max_length=defaults.get("max_length"),
            temperature=temperature,
            top_k=_first(self.top_k, defaults.get("top_k"), DEFAULT_TOP_K),
            top_p=_first(self.top_p, defaults.get("top_p"), 1.0),
            min_p=_first(self.min_p, defaults.get("min_p"), 0.0),
            num_samples=self.num_samples,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """Options of one request with every value settled.

    Raises:
        InputError: a value is out of its range; the message names the option.
    """

    max_new_tokens: int | None
    max_length: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    num_samples: int
    seed: int

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            _check("max_new_tokens", self.max_new_tokens, int, 1, None)
        if self.max_length is not None:
            _check("max_length", self.max_length, int, 1, None)
        _check("temperature", self.temperature, float, 0, None)
        _check("top_k", self.top_k, int, 0, None)
        _check("top_p", self.top_p, float, 0, 1)
        _check("min_p", self.min_p, float, 0, 1)
        _check("num_samples", self.num_samples, int, 1, None)
        _check("seed", self.seed, int, 0, 2**32 - 1)

    def new_tokens(self, prompt_length: int, context_length: int) -> int:
        """How many tokens to generate after a prompt of this length, within the context.

        Raises:
            InputError: the prompt alone fills `max_length` or the context.
        """
        room = context_length - prompt_length
        if room < 1:
            raise InputError(
                f"the prompt has {prompt_length} tokens, but the model has {context_length} "
                "positions; shorten the prompt"
            )
        wanted = self.max_new_tokens
        if wanted is None and self.max_length is not None:
            wanted = self.max_length - prompt_length
            if wanted < 1:
                raise InputError(
                    f"the prompt has {prompt_length} tokens, but generation_config.json sets "
                    f"max_length {self.max_length}; pass --max-new-tokens"
                )
        return min(DEFAULT_NEW_TOKENS if wanted is None else wanted, room)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check(name: str, value: Any, kind: type, low: float, high: float | None) -> None:
    numbers = (int, float) if kind is float else (int,)
    fits = isinstance(value, numbers) and not isinstance(value, bool)
    if fits and value >= low and (high is None or value <= high):
        return
    noun = "a number" if kind is float else "a whole number"
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise InputError(f"{name} must be {noun} {bounds}, not {value!r}")
