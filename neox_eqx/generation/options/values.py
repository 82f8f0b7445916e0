"""Values of options, wherever they were spelled: checked, and in the form that generation uses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.tokenizer import id_of_text
from neox_eqx.unicode import check_unicode

Word = str | tuple[int, ...]

LARGEST = 1e30
"""A logit plus or times a number up to here stays finite in float32."""

_ID = "a token id, which is a whole number of at least 0"


def check_number(
    name: str, value: Any, kind: type, low: float, high: float | None = None, *, above: bool = False
) -> None:
    """Raises unless `value` is a number from `low`, or `above` it, to `high`.

    Raises:
        InputError: names the option and the value.
    """
    numbers = (int, float) if kind is float else (int,)
    fits = isinstance(value, numbers) and not isinstance(value, bool)
    if fits and (value > low if above else value >= low) and (high is None or value <= high):
        return
    noun = "a number" if kind is float else "a whole number"
    if above:
        bounds = f"above {low}" + ("" if high is None else f" and at most {high}")
    elif high is None:
        bounds = f"of at least {low}"
    else:
        bounds = f"from {low} to {high}"
    raise InputError(f"{name} must be {noun} {bounds}, not {shown(value)}")


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """A list of token ids.

    Raises:
        InputError: it is none; the message has the wrong entry.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{name} must be a list of token ids, not {shown(value)}")
    for entry in value:
        if not _is_id(entry):
            raise InputError(f"{name}: {shown(entry)} is not {_ID}")
    return tuple(value)


def words(name: str, value: Any) -> tuple[Word, ...]:
    """A list of texts and lists of token ids, none of them empty.

    Raises:
        InputError: it is none; the message has the wrong entry.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(
            f"{name} must be a list of texts or lists of token ids, not {shown(value)}"
        )
    return tuple(_word(name, entry) for entry in value)


def _word(name: str, entry: Any) -> Word:
    if isinstance(entry, Sequence) and not entry:
        raise InputError(f"{name}: {shown(entry)} is empty")
    if not isinstance(entry, str):
        return token_ids(f"an entry of {name}", entry)
    check_unicode(f"{name}:", entry)
    return entry


def biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Words of token ids, each with what is added to the logit of its last token.

    Spelled as an object from ids to numbers, or, as in generation_config.json, as a list of
    pairs. -inf forbids.

    Raises:
        InputError: it is neither; the message has the wrong entry.
    """
    pairs: list[tuple[tuple[int, ...], Any]]
    if isinstance(value, Mapping):
        pairs = [((_id_of_key(name, key),), bias) for key, bias in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        pairs = [_pair(name, entry) for entry in value]
    else:
        raise InputError(f"{name} must be an object from token ids to numbers, not {shown(value)}")
    for ids, bias in pairs:
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not number or not (-LARGEST <= bias <= LARGEST or bias == -math.inf):
            entry = ids[0] if len(ids) == 1 else list(ids)
            raise InputError(
                f"{name}: the bias of {entry} must be a number within ±{LARGEST:g}, "
                f"not {shown(bias, 40)}"
            )
    return tuple(dict(pairs).items())


def decay(name: str, value: Any) -> tuple[int, float]:
    """A number of tokens and a factor.

    Raises:
        InputError: it is something else; the message has the wrong number.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"{name} must be a number of tokens and a factor, not {shown(value)}")
    check_number(f"the first of {name}", value[0], int, 0)
    check_number(f"the second of {name}", value[1], float, 0, LARGEST)
    return value[0], value[1]


def early_stopping(name: str, value: Any) -> bool | str:
    """One of transformers' three modes.

    Raises:
        InputError: it is none.
    """
    if value == "never" or isinstance(value, bool):
        return value
    raise InputError(f"{name} must be true, false or never, not {shown(value)}")


def yes_or_no(name: str, value: Any) -> bool:
    """True or false.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {shown(value)}")
    return value


def _id_of_key(name: str, key: Any) -> int:
    """JSON has texts for keys."""
    id: Any = id_of_text(key) if isinstance(key, str) else key
    if not _is_id(id):
        raise InputError(f"{name}: {shown(key)} is not {_ID}")
    return id


def _pair(name: str, entry: Any) -> tuple[tuple[int, ...], Any]:
    if not (isinstance(entry, Sequence) and len(entry) == 2 and not isinstance(entry, str)):
        raise InputError(f"{name}: {shown(entry)} is not a pair of token ids and a number")
    ids = token_ids(name, entry[0])
    if not ids:
        raise InputError(f"{name}: {shown(entry)} has no token ids")
    return ids, entry[1]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
