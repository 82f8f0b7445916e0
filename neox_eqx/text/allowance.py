"""A limit for each rendering of a template, so that none runs or grows without end."""

import math
import re
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

from neox_eqx.shown import shown

# A conversation of 300 messages and 600,000 letters costs less than half of these.
_UNITS = 20_000_000
_UNITS_A_STEP = 500
"""What each call, operation or turn of a loop costs, beside the letters that it handles."""
_SECONDS = 10.0
_LARGEST_PRODUCT = 500_000_000
"""The product of the sizes that go into one call: of what it may make, in letters or items."""
_LARGEST_NUMBER = 2_000_000
"""A number beside a text or a list, which may be a width or a count."""
_SIZED = (str, list, tuple, dict, range)


class TooMuch(Exception):
    """A template has done more than any conversation needs."""


class Render:
    """One rendering: the units that it may still use, and whether it marks what is learnt."""

    def __init__(self, marks: bool = False):
        self.marks = marks
        self._left = _UNITS
        self._deadline = time.monotonic() + _SECONDS

    def pay(self, units: int) -> None:
        self._left -= _UNITS_A_STEP + units
        if self._left < 0 or time.monotonic() > self._deadline:
            raise TooMuch("expands without bound")

    def pay_for(self, value: Any) -> Any:
        """The value, after all that is in it is paid for."""
        self.pay(len(value) if isinstance(value, str) else 0)
        if isinstance(value, Mapping):
            for item in value.values():
                self.pay_for(item)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                self.pay_for(item)
        return value


RENDER: ContextVar[Render] = ContextVar("RENDER")


def take(args: list[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments, paid for; a generator as a tuple, whose size is known."""
    args = [tuple(value) if isinstance(value, GeneratorType) else value for value in args]
    check_product((*args, *kwargs.values()))
    return args


def check_product(values: Iterable[Any], most: int = _LARGEST_PRODUCT) -> None:
    """Pays for the values, and refuses those whose product would fill the memory.

    A number may say how often or how wide another value is written; `most` limits the product of
    all sizes.
    """
    sized = [len(value) for value in values if isinstance(value, _SIZED)]
    numbers = [abs(value) for value in values if isinstance(value, int | float)]
    RENDER.get().pay(sum(sized))
    product = math.prod(max(1, size) for size in (*sized, *numbers))
    if sized and (product > most or max(numbers, default=0) > _LARGEST_NUMBER):
        raise TooMuch("makes a text or a list without bound")


def check_repeated(left: Any, right: Any) -> None:
    """As `check_product`, for a text or a list times a number."""
    check_product((left, right), _UNITS)


def check_format(pattern: str) -> None:
    """Refuses a width that is large, or that is itself given as *, or as {:{}}."""
    if re.search(r"\*|\d{6}|\{[^{}]+\{", pattern):
        raise TooMuch(f"formats with a width without bound: {shown(pattern, 40)}")
