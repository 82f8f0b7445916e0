"""A value as a message shows it."""

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from neox_eqx.shown import few, shown


def bomb(depth: int = 40) -> list:
    """Lists of two lists each, one inside the other, as a YAML file of 40 short lines has them."""
    value: list = []
    for _ in range(depth):
        value = [value, value]
    return value


def endless() -> list:
    value: list = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    "value",
    [
        "it's",
        'a"b\n\ud800',
        b"\xff",
        -7,
        math.nan,
        True,
        None,
        [1, [], "a"],
        (1, 2),
        {"a": {"b": [None]}, 3: ()},
        {5},
    ],
)
def test_a_short_value_is_its_repr(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize("value", ["a" * 100, [1] * 100, {"a": list(range(100))}, 10**99])
def test_a_long_value_is_cut(value: Any) -> None:
    assert shown(value, 20) == f"{value!r:.20}..."


@pytest.mark.parametrize(
    "make",
    [
        bomb,
        endless,
        lambda: "x" * 10**7,
        lambda: b"x" * 10**7,
        lambda: [0] * 10**6,
        lambda: 1 << 10**7,
    ],
)
def test_no_more_is_made_of_a_value_than_is_shown(make: Callable[[], Any]) -> None:
    value = make()
    tracemalloc.start()
    try:
        text = shown(value)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(text) == 83
    assert most < 2_000_000


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_that_python_refuses_to_spell_is_shown(sign: int) -> None:
    assert shown(sign * 0x123456789 << 20_000, 10) == f"{sign * 0x123456789:#x}"[:10] + "..."


def test_a_value_of_several_lines_is_shown_in_one() -> None:
    class Lines:
        def __repr__(self) -> str:
            return "Lines(\n  1,\n  2)"

    assert shown(Lines()) == "Lines( 1, 2)"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b\nc"], "a, 'b\\nc'"),
        (["a" * 30, "b" * 30], f"{'a' * 30} and 1 more"),
        (["a" * 300] * 1000, f"{'a' * 200} and 999 more"),
    ],
)
def test_of_many_names_a_few_are_shown(names: list[str], text: str) -> None:
    assert few(names, 50) == text
