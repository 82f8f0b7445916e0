"""Sizes in bytes, as messages and tables show them."""

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def size_text(size: float, digits: int = 3) -> str:
    """So many digits of a size, in the unit that fits: 0 B, 340 B, 2.61 MB, 14.2 GB."""
    factor, unit = next((pair for pair in _UNITS if size >= pair[0]), _UNITS[-1])
    decimals = 0 if unit == "B" else max(0, digits - len(str(int(size / factor))))
    return f"{size / factor:,.{decimals}f} {unit}"
