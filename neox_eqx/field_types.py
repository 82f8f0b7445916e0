"""Checks values from a file against the dataclass that they are to fill."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import numpy as np

from neox_eqx.errors import InputError
from neox_eqx.shown import shown

LARGEST_FLOAT = float(np.finfo(np.float32).max)
LARGEST_INT = np.iinfo(np.int32).max


def known_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields of the dataclass `cls`, each checked to be of its field's type.

    A whole number may stand for a float, and becomes one; true and false are no numbers.

    Raises:
        InputError: a value has another type or is out of range; the message names the field.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    known = {name: value for name, value in values.items() if name in kinds}
    for name, value in known.items():
        kind = kinds[name]
        if not _is_a(value, kind):
            kind_name = kind.__name__ if isinstance(kind, type) else kind
            raise InputError(f"{name} must be {kind_name}, not {shown(value)}")
        if not _is_in_range(value, kind):
            raise InputError(f"{name} is out of range: {shown(value)}")
        known[name] = float(value) if _is_float(kind) and isinstance(value, int) else value
    return known


def _is_float(kind: Any) -> bool:
    return kind is float or float in get_args(kind)


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is types.UnionType:
        return any(_is_a(value, option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, int) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _is_in_range(value: Any, kind: Any) -> bool:
    """Whether a number fits into the arrays of a model: finite in float32, or an int32."""
    if isinstance(value, tuple):
        return all(_is_in_range(item, kind) for item in value)
    most = LARGEST_FLOAT if _is_float(kind) else LARGEST_INT
    return not isinstance(value, int | float) or abs(value) <= most
