"""Sizes in bytes, as messages and tables show them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported with the command line, which is to answer at once
    import numpy as np

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def size_text(size: float, digits: int = 3) -> str:
    """So many digits of a size, in the unit that fits: 0 B, 340 B, 2.61 MB, 14.2 GB."""
    factor, unit = next((pair for pair in _UNITS if size >= pair[0]), _UNITS[-1])
    decimals = 0 if unit == "B" else max(0, digits - len(str(int(size / factor))))
    return f"{size / factor:,.{decimals}f} {unit}"


def dtype_bits(dtype: "np.dtype") -> int:
    """The bits of a number in an accelerator's memory; NumPy has a byte for one of four bits."""
    return 4 if dtype.name in ("int4", "uint4") else 8 * dtype.itemsize
