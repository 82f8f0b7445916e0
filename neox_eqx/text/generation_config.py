"""generation_config.json: a checkpoint's own defaults for generation."""

import warnings
from pathlib import Path
from typing import Any

from neox_eqx.config import read_json
from neox_eqx.errors import InputError

# What transformers would apply and this project does not, with the values at which it does nothing.
_NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "constraints": (),
    "diversity_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "repetition_penalty": (1,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
    "top_h": (),
    "typical_p": (1,),
}


def read_generation_config(directory: Path) -> dict[str, Any]:
    """The object of the directory's generation_config.json, empty if there is no such file.

    Warns of settings that transformers would apply and this project does not.

    Raises:
        InputError: the file is broken, or a token id in it is not a whole number.
    """
    file = directory / "generation_config.json"
    if not file.exists():
        return {}
    fields = read_json(file)
    _check_ids(file, "bos_token_id", [fields.get("bos_token_id")])
    eos = fields.get("eos_token_id")
    _check_ids(file, "eos_token_id", eos if isinstance(eos, list) else [eos])
    ignored = [
        f"{name} {fields[name]!r}"
        for name, neutral in _NOT_APPLIED.items()
        if fields.get(name) is not None and fields[name] not in ((), [], {}, *neutral)
    ]
    if ignored:
        warnings.warn(
            f"{file}: sets {', '.join(ignored)}, which transformers applies and neox_eqx does not; "
            "texts differ from transformers'",
            stacklevel=2,
        )
    return fields


def _check_ids(file: Path, name: str, ids: list[Any]) -> None:
    for value in ids:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"{file}: {name} must be a token id, not {value!r}")
