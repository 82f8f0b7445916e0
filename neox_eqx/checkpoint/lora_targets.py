"""Which modules of a model LoRA is on, in the spellings of PEFT's adapter_config.json."""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

from neox_eqx.checkpoint.patterns import check_pattern, fullmatch
from neox_eqx.errors import InputError
from neox_eqx.shown import shown

# What PEFT adapts in GPT-NeoX where target_modules is null.
_DEFAULT = ("query_key_value",)
_ALL_LINEAR = "all-linear"
# What this package and transformers 4 call the head, and its name since transformers 5.
_ALIASES = {"embed_out": "lm_head"}
_MOST = 4096
"""Names in a list; a model of a hundred layers has a few hundred modules."""
_NOT_LINEAR = ("embed_in", "embed_out", "lm_head")
"""Modules that all-linear leaves out: the head, as PEFT does, and the embedding."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """What `target_modules` and its companions say.

    A list names modules by the end of their names, or by all of them; one text is a regular
    expression of whole names, or all-linear.
    """

    modules: str | tuple[str, ...] = _DEFAULT
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    """The layers that are meant, where `modules` is a list; empty for all."""
    pattern: tuple[str, ...] = ()
    """What stands before the number of a layer; any name if empty."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Targets":
        """The targets that an adapter_config.json names.

        Raises:
            InputError: a value is of another type, or no regular expression.
        """
        layers = config.get("layers_to_transform")
        layers = [layers] if isinstance(layers, int) else layers or []
        if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
            raise InputError(f"layers_to_transform must be numbers of layers, not {shown(layers)}")
        check_count("layers_to_transform", layers)
        modules = _names(config, "target_modules") or _DEFAULT
        pattern = _names(config, "layers_pattern")
        pattern = (pattern,) if isinstance(pattern, str) else pattern
        exclude = _names(config, "exclude_modules")
        for text in (modules, exclude, *pattern):
            if isinstance(text, str):
                check_pattern(text)
        return cls(modules, exclude, tuple(layers), pattern)

    def among(self, names: Iterable[str]) -> list[str]:
        """Those of the modules that are meant; names are as gpt_neox.layers.0.attention.dense."""
        return [name for name in names if self._has(name) or self._has(_ALIASES.get(name, name))]

    def _has(self, name: str) -> bool:
        if self.exclude and _is_named(self.exclude, name):
            return False
        if isinstance(self.modules, str) or name in self.modules:
            return _is_named(self.modules, name)
        return _is_named(self.modules, name) and (not self.layers or self._layer(name))

    def _layer(self, name: str) -> bool:
        before = "|".join(f"(?:{one})" for one in self.pattern) or r"[^.]*"
        found = fullmatch(rf"(?:.*?\.)?(?:{before})\.(?P<number>\d+)\..*", name)
        return found is not None and int(found["number"]) in self.layers


def check_count(key: str, values: Collection[Any]) -> None:
    """Refuses more values than any model has modules: each is compared with each module.

    Raises:
        InputError: there are more; the message names the key.
    """
    if len(values) > _MOST:
        raise InputError(f"{key} has {len(values)} entries, and at most {_MOST} are read")


def _is_named(said: str | tuple[str, ...], name: str) -> bool:
    if not isinstance(said, str):
        return any(name == one or name.endswith(f".{one}") for one in said)
    if said.lower() == _ALL_LINEAR:
        return name.split(".")[-1] not in _NOT_LINEAR
    return fullmatch(said, name) is not None


def _names(config: dict[str, Any], key: str) -> str | tuple[str, ...]:
    value = config.get(key) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{key} must be a text or a list of texts, not {shown(value)}")
    check_count(key, value)
    return tuple(value)
