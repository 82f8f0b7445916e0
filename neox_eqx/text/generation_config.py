"""generation_config.json: a checkpoint's own defaults for generation."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.config import GPTNeoXConfig, read_json
from neox_eqx.errors import InputError

# What transformers would apply and this project does not, with the values at which it does nothing.
_NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
}
_NOT_APPLIED_TO_SAMPLING: dict[str, tuple[Any, ...]] = {
    "top_h": (),
}
_NOT_APPLIED_WITHOUT_BEAMS: dict[str, tuple[Any, ...]] = {
    "num_return_sequences": (1,),
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
    for name in ("bos_token_id", "eos_token_id"):
        if fields.get(name) is not None:
            _check_ids(file, name, fields[name])
    sampled = fields.get("do_sample")
    if sampled not in (None, False, True):
        raise InputError(f"{file}: do_sample must be true or false, not {sampled!r}")
    rules = dict(_NOT_APPLIED)
    if sampled:
        rules |= _NOT_APPLIED_TO_SAMPLING
    if fields.get("num_beams") in (None, 1):
        rules |= _NOT_APPLIED_WITHOUT_BEAMS
    ignored = [
        f"{name} {fields[name]!r}"
        for name, neutral in rules.items()
        if fields.get(name) is not None and fields[name] not in ((), [], {}, *neutral)
    ]
    if ignored:
        warnings.warn(
            f"{file}: sets {', '.join(ignored)}, which transformers applies and neox_eqx does not; "
            "texts differ from transformers'",
            stacklevel=2,
        )
    return fields


def bos_token_id(defaults: Mapping[str, Any], config: GPTNeoXConfig) -> int | None:
    """From generation_config.json's object where it says, else from config.json."""
    return defaults.get("bos_token_id", config.bos_token_id)


def eos_token_ids(defaults: Mapping[str, Any], config: GPTNeoXConfig) -> tuple[int, ...]:
    """From generation_config.json's object where it says, else from config.json.

    A negative one, which is no token's, is how some files say that there is none.
    """
    eos = defaults.get("eos_token_id")
    if eos is None:
        eos = config.eos_token_ids
    return tuple(id for id in ([eos] if isinstance(eos, int) else eos) if id >= 0)


def _check_ids(file: Path, name: str, value: Any) -> None:
    ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
    for one in ids:
        if not isinstance(one, int) or isinstance(one, bool) or not -(2**31) <= one < 2**31:
            raise InputError(f"{file}: {name} must be a token id, not {one!r}")
