"""Lengths are rounded up to a few sizes, so that a new length does not compile anew."""


def prompt_slots(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: at most half of a prefill is padding."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def generated_slots(length: int) -> int:
    """The next of 64, 128, 256, ...: a longer completion compiles once for each doubling."""
    return max(64, 1 << (length - 1).bit_length())
