"""Values and names as messages show them."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

_LONG = 14_000
"""Bits of a number that is not written out: Python refuses more than 4,300 decimal digits."""


def shown(value: object, most: int = 80) -> str:
    """The `repr` of a value, in one line and cut to `most` letters.

    Only what is shown is made: a few kilobytes of YAML can stand for a value whose whole text has
    gigabytes, or no end.
    """
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            return f"{text[:most]}..."
    return text


def _pieces(value: object, most: int) -> Iterator[str]:
    """The parts of a value's `repr`, each made as it is asked for, and not much above `most`."""
    if isinstance(value, str | bytes | bytearray):
        yield repr(value[: most + 1])
    elif isinstance(value, int) and value.bit_length() > _LONG:
        yield f"{value >> (value.bit_length() - _LONG) // 4 * 4:#x}..."
    elif isinstance(value, Mapping):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(item, most)
        yield "}"
    elif isinstance(value, list | tuple | set | frozenset):
        kind = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "set"
        yield {"list": "[", "tuple": "(", "set": "{"}[kind]
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item, most)
        yield {"list": "]", "tuple": ",)" if len(value) == 1 else ")", "set": "}"}[kind]
    else:
        yield " ".join(repr(value).split())


def few(names: Sequence[str], most: int = 400) -> str:
    """As many names as fit into `most` letters, and how many more there are."""
    text = ""
    for index, name in enumerate(names):
        name = f"{name:.200}" if name.isprintable() else shown(name, 200)
        if index and len(text) + len(name) > most:
            return f"{text} and {len(names) - index} more"
        text += f", {name}" if index else name
    return text


def hint(wrong: str, known: Iterable[str], otherwise: str) -> str:
    """Which of the `known` names a wrong one may be meant for, or what else there is to say."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise
