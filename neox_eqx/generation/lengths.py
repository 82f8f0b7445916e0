"""Lengths are rounded up to a few sizes, so that a new length does not compile anew."""


def bucket(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: above 16 at most a third of it is padding."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def power_of_two(length: int, least: int = 1) -> int:
    """`least`, doubled until it is at least `length`."""
    return least if length <= least else power_of_two(length, 2 * least)
