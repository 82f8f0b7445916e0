"""Prompts and conversations, with options for each, as requests."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.shown import shown
from neox_eqx.text.messages import Message
from neox_eqx.text.template import ChatTemplate

Options = TypeVar("Options", bound=GenerationOptions | Sequence[GenerationOptions])
Prompt = str | Sequence[Message]
"""A text, or the messages of a conversation that the assistant is to answer."""


def given(options: Options | None, values: Mapping[str, Any]) -> Options | GenerationOptions:
    """The options, which are given as one value or by name.

    Raises:
        InputError: both are given, or there is no option of a name.
    """
    named = GenerationOptions().changed(values)
    if options is None:
        return named
    if values:
        raise InputError(f"{next(iter(values))} is given beside options; put it into those")
    return options


def one_each(
    options: GenerationOptions | Sequence[GenerationOptions], prompts: Sequence[Prompt]
) -> Sequence[GenerationOptions]:
    """Options for each of the prompts.

    Raises:
        InputError: there are more or fewer options than prompts.
    """
    if isinstance(prompts, str):
        raise InputError(f"prompts must be a list of texts, not the text {prompts[:30]!r}")
    if isinstance(options, GenerationOptions):
        return [options] * len(prompts)
    if len(options) != len(prompts):
        raise InputError(f"there are {len(options)} options for {len(prompts)} prompts")
    return options


def asked(
    make: Callable[[Prompt, GenerationOptions], tuple[str, Request]],
    prompts: Sequence[Prompt],
    options: GenerationOptions | Sequence[GenerationOptions],
) -> tuple[list[str], list[Request]]:
    """The text and the request that `make` makes of each prompt, equal in all processes.

    Raises:
        InputError: `make` refuses a prompt, whose number the message has; or hosts differ.
    """
    made = []
    with agreed():  # templates of hosts may differ
        for number, (prompt, own) in enumerate(
            zip(prompts, one_each(options, prompts), strict=True), 1
        ):
            try:
                made.append(make(prompt, own))
            except InputError as error:
                if len(prompts) == 1:
                    raise
                where = f"prompt {number} of {len(prompts)}, {beginning_of(prompt)}"
                raise InputError(f"{where}: {error}") from error
    texts = [text for text, _ in made]
    check_equal("what the chat template makes of the messages", texts)
    return texts, [request for _, request in made]


def as_messages(prompt: Prompt, system: str | None = None) -> Prompt:
    """The prompt as messages: a text is the user's, after the system's if there is one."""
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    has_system = not said or said[0].get("role") == "system"
    return said if system is None or has_system else [{"role": "system", "content": system}, *said]


def with_stops(options: GenerationOptions, template: ChatTemplate) -> GenerationOptions:
    """The options, with the texts that end a turn of the template unless they name their own."""
    if options.stop is not None or not template.stop:
        return options
    return dataclasses.replace(options, stop=template.stop)


def beginning_of(prompt: Prompt) -> str:
    """How a prompt begins, for messages."""
    if isinstance(prompt, str):
        return f"which begins {shown(prompt, 32)}"
    return f"a conversation of {len(prompt)} messages"


def warn_of_idle_options(given: GenerationOptions, options: ResolvedOptions) -> None:
    """Warns of options that were given and have no effect."""
    names = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    idle = [name for name in names if getattr(given, name) is not None]
    if given.num_samples > 1:
        idle.append("num_samples")
    if idle and options.temperature == 0:
        warnings.warn(
            f"the temperature is 0, which takes the most likely token and makes {', '.join(idle)} "
            "of no use; give a temperature to sample",
            stacklevel=3,
        )
    of_search = ("length_penalty", "early_stopping")
    idle = [name for name in of_search if getattr(given, name) is not None]
    if idle and options.num_beams == 1:
        warnings.warn(
            f"there is no search, for which {', '.join(idle)} would be of use; give num_beams",
            stacklevel=3,
        )
