"""Sizes in the unit that fits."""

import pytest

from neox_eqx.sizes import size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (2_614_000, "2.61 MB"),
        (14_200_000_000, "14.2 GB"),
        (262 * 10**12, "262 TB"),
        (12_345 * 10**12, "12,345 TB"),
    ],
)
def test_a_size_has_three_digits_and_its_unit(size: int, text: str) -> None:
    assert size_text(size) == text


def test_a_table_has_more_digits() -> None:
    assert size_text(13_650_000_000, digits=4) == "13.65 GB"
