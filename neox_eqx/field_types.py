"""Holds the values of a dataclass that came from outside against its declaration."""

import dataclasses
import types
from typing import Any, get_args, get_origin

from neox_eqx.errors import InputError


def check_types(instance: Any) -> None:
    """Every field of the dataclass instance holds what it is declared to hold.

    A whole number is a float too; true and false are no numbers.

    Raises:
        InputError: a value has another type; the message names the field.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not _is_a(value, field.type):
            kind = field.type.__name__ if isinstance(field.type, type) else field.type
            raise InputError(f"{field.name} must be {kind}, not {value!r}")


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is types.UnionType:
        return any(_is_a(value, option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, int) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
