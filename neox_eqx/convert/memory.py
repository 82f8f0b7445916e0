"""Whether a model fits into memory as a whole, where a conversion needs all of it."""

import math
from collections.abc import Sequence

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.sizes import size_text

_HEADROOM = 10**9
"""Bytes beside the parameters: the libraries, activations, and a tensor that is being read."""


def shortage(entries: Sequence[Entry], *, bytes_each: int) -> tuple[str, str] | None:
    """None if there is memory for these parameters, at so many bytes each; else, as texts, how much
    they need and how much is free."""
    import psutil

    count = sum(math.prod(entry.shape) for entry in entries)
    needed, free = bytes_each * count + _HEADROOM, psutil.virtual_memory().available
    return None if needed <= free else (size_text(needed), size_text(free))
