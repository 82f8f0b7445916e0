"""A checkpoint's own defaults for generation: generation_config.json, or else config.json."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.save import Companion
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import NAMES_IN_FILES
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json

# Every setting that transformers' GenerationConfig has is in one of the sets below.
APPLIED = {
    *(NAMES_IN_FILES.get(field.name, field.name) for field in dataclasses.fields(ResolvedOptions)),
    *("do_sample", "bos_token_id", "eos_token_id"),
} - {"num_samples", "seed", "presence_penalty", "frequency_penalty"}
# Settings that transformers applies and this project does not, with the values at which they do
# nothing.
_NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "cache_implementation": (
        *("dynamic", "offloaded", "static", "offloaded_static", "hybrid", "offloaded_hybrid"),
        *("hybrid_chunked", "offloaded_hybrid_chunked", "sliding_window", "paged"),
    ),
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "is_assistant": (False,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "watermarking_config": (),
}
_NOT_APPLIED_TO_SAMPLING: dict[str, tuple[Any, ...]] = {"top_h": ()}
_NOT_APPLIED_WITHOUT_BEAMS: dict[str, tuple[Any, ...]] = {"num_return_sequences": (1,)}
NOT_APPLIED = {*_NOT_APPLIED, *_NOT_APPLIED_TO_SAMPLING, *_NOT_APPLIED_WITHOUT_BEAMS}
IRRELEVANT = {
    # About where and how fast it computes; the last ones are about speculative decoding:
    *("cache_config", "compile_config", "continuous_batching_config", "disable_compile"),
    *("low_memory", "max_cache_len", "prefill_chunk_size", "use_cache"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight"),
    *("assistant_lookbehind", "max_matching_ngram_size", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "prompt_lookup_num_tokens", "speculation_type"),
    *("target_lookbehind", "use_mtp"),
    # About what else is returned:
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
    "return_dict_in_generate",
    # For padding, encoders, and people:
    *("pad_token_id", "decoder_start_token_id", "transformers_version"),
}


def read_generation_config(directory: Path) -> dict[str, Any]:
    """The object of the directory's generation_config.json, or the settings in its config.json.

    As in transformers, config.json counts where there is no generation_config.json, which came
    with version 4.26. Warns of settings that transformers would apply and this project does not.

    Raises:
        InputError: the file is broken, or a token id in it is not a whole number.
    """
    file = directory / "generation_config.json"
    if file.exists():
        fields = read_json(file)
    else:
        file, fields = directory / "config.json", settings_in_config(directory)
    for name in ("bos_token_id", "eos_token_id"):
        if fields.get(name) is not None:
            _check_ids(file, name, fields[name])
    if fields.get("do_sample") not in (None, False, True):
        raise InputError(
            f"{file}: do_sample must be true or false, not {shown(fields['do_sample'])}"
        )
    _warn_of_ignored(file, fields)
    return fields


def settings_file(settings: Mapping[str, Any]) -> list[Companion]:
    """A generation_config.json for settings that were read from a config.json, if there are any.

    A model is written with a new config.json, which has the BOS and EOS tokens alone. This file
    keeps the other settings.
    """
    if not settings.keys() - {"bos_token_id", "eos_token_id"}:
        return []
    return [("generation_config.json", json.dumps(dict(settings), indent=2) + "\n")]


def settings_in_config(directory: Path) -> dict[str, Any]:
    """The settings in config.json; none where there is a generation_config.json, which counts."""
    file = directory / "config.json"
    if (directory / "generation_config.json").exists() or not file.exists():
        return {}
    return _settings(read_json(file))


def bos_token_id(defaults: Mapping[str, Any], config: GPTNeoXConfig) -> int | None:
    """From generation_config.json's object where it says, else from config.json."""
    return defaults.get("bos_token_id", config.bos_token_id)


def eos_token_ids(defaults: Mapping[str, Any], config: GPTNeoXConfig) -> tuple[int, ...]:
    """From generation_config.json's object where it says, else from config.json.

    Some files have a negative id to say that there is none.
    """
    eos = defaults.get("eos_token_id")
    if eos is None:
        eos = config.eos_token_ids
    return tuple(id for id in ([eos] if isinstance(eos, int) else eos) if id >= 0)


def _settings(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of generation in a config.json, without those that are null."""
    known = APPLIED | NOT_APPLIED
    return {
        name: value for name, value in config_json.items() if name in known and value is not None
    }


def _warn_of_ignored(file: Path, fields: Mapping[str, Any]) -> None:
    rules = dict(_NOT_APPLIED)
    if fields.get("do_sample"):
        rules |= _NOT_APPLIED_TO_SAMPLING
    if fields.get("num_beams") in (None, 1):
        rules |= _NOT_APPLIED_WITHOUT_BEAMS
    ignored = [
        f"{name} {shown(fields[name])}"
        for name, neutral in rules.items()
        if fields.get(name) is not None and fields[name] not in ((), [], {}, *neutral)
    ]
    if ignored:
        warnings.warn(
            f"{file}: sets {', '.join(ignored)}, which transformers applies and neox_eqx does not; "
            "texts differ from transformers'",
            stacklevel=3,
        )


def _check_ids(file: Path, name: str, value: Any) -> None:
    ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
    for one in ids:
        if not isinstance(one, int) or isinstance(one, bool) or not -(2**31) <= one < 2**31:
            raise InputError(f"{file}: {name} must be a token id, not {shown(one)}")
