"""adapter_config.json: what PEFT says of an adapter."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.files import ADAPTER_BASE, ADAPTER_CONFIG
from neox_eqx.checkpoint.lora_targets import Targets, check_count
from neox_eqx.checkpoint.patterns import check_pattern, fullmatch
from neox_eqx.errors import InputError
from neox_eqx.field_types import LARGEST_FLOAT, LARGEST_INT
from neox_eqx.model.formats import FORMATS
from neox_eqx.model.lora import lora_scale
from neox_eqx.shown import few, shown
from neox_eqx.small_files import read_json

FORM = "quantize"
"""The key of base.json that has the form in few bits of the base's weights."""
SOFT_PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING")
# Variants of LoRA that compute something else.
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
)
# Ways to initialise LoRA that leave the base as it was; the others change its weights.
_INIT = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """What adapter_config.json says of a LoRA adapter, under PEFT's names."""

    base: str | None
    """`base_model_name_or_path`"""
    revision: str | None
    """Of the base."""
    r: int
    lora_alpha: float
    use_rslora: bool
    lora_dropout: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: Targets

    def rank_of(self, module: str) -> int:
        return _of_module(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        return _of_module(self.alpha_pattern, module, self.lora_alpha)

    def scale_of(self, module: str) -> float:
        """What the product of B and A is multiplied by."""
        return lora_scale(self.alpha_of(module), self.rank_of(module), self.use_rslora)


def read_base_form(directory: Path) -> str | None:
    """The form in few bits of the base that the adapter in a directory was trained beside.

    It is None where the base was in floating point: there is no base.json then.

    Raises:
        InputError: base.json is broken, or names no form.
    """
    path = directory / ADAPTER_BASE
    if not path.is_file():
        return None
    form = read_json(path).get(FORM)
    if form not in FORMATS:
        raise InputError(f"{path}: {FORM} is {shown(form, 40)}, and not {' or '.join(FORMATS)}")
    return form


def read_lora_settings(directory: Path) -> LoraSettings:
    """The settings of the LoRA adapter in a directory.

    Raises:
        InputError: the file is broken, or the adapter of another kind.
    """
    path = directory / ADAPTER_CONFIG
    config = read_json(path)
    _check_kind(directory, config)
    try:
        return LoraSettings(
            base=_base(config),
            revision=_value(config, "revision", str, None),
            r=_rank("r", config.get("r", 8)),
            lora_alpha=_number("lora_alpha", config.get("lora_alpha", 8)),
            use_rslora=_value(config, "use_rslora", bool, False),
            lora_dropout=_number("lora_dropout", config.get("lora_dropout") or 0.0),
            rank_pattern=_pattern(config, "rank_pattern", _rank),
            alpha_pattern=_pattern(config, "alpha_pattern", _number),
            targets=Targets.of(config),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _check_kind(directory: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind in SOFT_PROMPTS:
        raise InputError(
            f"{directory}: is a soft prompt or prefix and no model; give the model that it is for, "
            "and this as --soft-prompt"
        )
    if kind != "LORA":
        raise InputError(
            f"{directory}: is an adapter of the kind {shown(kind, 40)}, and only LORA is read; "
            "merge it into its model with PEFT"
        )
    variants = [name for name in config if name in _VARIANTS or name.startswith("use_")]
    variants = [name for name in variants if config[name] and name != "use_rslora"]
    begun = config.get("init_lora_weights")
    if begun not in _INIT:
        variants.append(f"init_lora_weights {shown(begun, 40)}")
    if variants:
        raise InputError(
            f"{directory}: is LoRA with {few(sorted(variants))}, which is not read; merge it "
            "into its model with PEFT"
        )


def _of_module(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first regular expression that fits the end of a module's name."""
    for key, value in pattern.items():
        if fullmatch(_end_of_name(key), module):
            return value
    return default


def _end_of_name(key: str) -> str:
    return rf"(.*\.)?({key})"


def _pattern(config: dict[str, Any], name: str, check: Any) -> dict[str, Any]:
    values = _value(config, name, dict, {})
    check_count(name, values)
    for key, value in values.items():
        check(f"{name} of {shown(key)}", value)
        check_pattern(_end_of_name(key))
    return values


def _base(config: dict[str, Any]) -> str | None:
    name = _value(config, "base_model_name_or_path", str, None)
    if name and not name.isprintable():  # it would break a message's one line
        raise InputError(f"base_model_name_or_path {shown(name)} cannot be a model's name")
    return name


def _value(config: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(f"{name} must be of type {kind.__name__}, not {shown(value)}")
    return value


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= LARGEST_INT:
        raise InputError(f"{name} must be a whole number of at least 1, not {shown(value)}")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= LARGEST_FLOAT:
        raise InputError(f"{name} must be a number, not {shown(value)}")
    return value
