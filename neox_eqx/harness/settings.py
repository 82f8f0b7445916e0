"""The harness's settings of generation as our options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.shown import shown

# The harness asks for one text a request, and looks for the end itself.
_FIXED: dict[str, Any] = {"num_beams": 1, "num_samples": 1, "num_return_sequences": 1, "stop": ()}
_OPTION_NAMES = {field.name for field in dataclasses.fields(GenerationOptions)} - _FIXED.keys()


def read_settings(
    settings: dict[str, Any], end: str, defaults: Mapping[str, Any], *, seed: int
) -> tuple[ResolvedOptions, list[str]]:
    """The options for a text, and the texts at which it ends, one of which is `end`.

    `settings` are the task's, those of `--gen_kwargs` among them, and `defaults` the object of the
    checkpoint's generation_config.json. The options have a `max_new_tokens` of their own.

    Raises:
        InputError: a setting is unknown, not supported or out of its range.
    """
    if settings.get("do_sample") and settings.get("temperature") is None:
        # As in transformers; the harness would take 0.
        default = defaults.get("temperature")
        settings = {**settings, "temperature": 1.0 if default is None else default}
    given: dict[str, Any] = dict(normalize_gen_kwargs(settings))
    until, limit = handle_stop_sequences(given.pop("until"), end), given.pop("max_gen_toks")
    if not given.pop("do_sample"):
        given["temperature"] = 0.0
    elif given["temperature"] == 0:
        raise InputError("gen_kwargs: do_sample is true and the temperature 0; give one above 0")
    for name in given.keys() - _OPTION_NAMES:
        if name not in _FIXED or given[name] != _FIXED[name]:
            raise InputError(f"gen_kwargs: {name} {shown(given[name])} is not supported")
    options = GenerationOptions(**{"seed": seed} | given | _FIXED, max_new_tokens=limit)
    return options.resolve(defaults), until
