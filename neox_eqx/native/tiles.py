"""Weights of 4 and 8 bits in groups along the input, as the library reads them.

A number of a weight (out, in) is scale * (code - zero). A code is unsigned: of 4 bits, and then
zero is 8, or of 8 bits, and zero is 128. A scale is float16, one for each row and 32 numbers of
it.

16 rows lie side by side, so that a lane of a processor is a row. With 4 bits the codes are uint8
(out/16, in/8, 64). Byte 4r + b of entry (t, j) has two numbers of row 16t + r: number 8j + b in its
lower half, and 8j + 4 + b in its upper. With 8 bits they are uint8 (out/16, in/4, 64), and that
byte is number 4j + b. Scales are (out/16, in/32, 16). What is missing of the last 16 rows and of
the last 32 numbers is there, with the code of zero, and rows that are missing have scales of 0.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

TILE = 16
"""Rows of a weight side by side."""
GROUP = 32
"""Numbers of a row with one scale."""

Numbers = TypeVar("Numbers", np.ndarray, jax.Array)


def tiled(codes: Numbers, scale: Numbers, *, bits: int) -> tuple[Numbers, Numbers]:
    """Codes (..., out, in), uint8, and scales (..., out, ceil(in / 32)), float16, in this layout.

    NumPy gives NumPy, JAX gives JAX.
    """
    *leading, _, size = codes.shape
    codes = _filled(codes, 2 ** (bits - 1), -(-size // GROUP) * GROUP)
    scale = _filled(scale, 0, scale.shape[-1])
    tiles, groups = codes.shape[-2] // TILE, scale.shape[-1]
    halves = [8 // bits] if bits == 4 else []
    split = codes.reshape(*leading, tiles, TILE, -1, *halves, 4)
    if bits == 4:
        split = split[..., 0, :] | (split[..., 1, :] << 4)
    ordered = split.swapaxes(-3, -2).reshape(*leading, tiles, -1, 4 * TILE)
    return ordered, scale.reshape(*leading, tiles, TILE, groups).swapaxes(-2, -1)


def _filled(numbers: Numbers, value: int, size: int) -> Numbers:
    """With rows up to a multiple of 16, and `size` numbers in each."""
    *leading, out, own = numbers.shape
    widths = [(0, 0)] * len(leading) + [(0, -out % TILE), (0, size - own)]
    library = np if isinstance(numbers, np.ndarray) else jnp
    return library.pad(numbers, widths, constant_values=value)


def untiled(tiles: Numbers, scale: Numbers) -> Numbers:
    """The weight (out, in), float32, of tiles (T, steps, 64) and scales (T, G, 16).

    It has what was added to make it whole tiles. NumPy gives NumPy, JAX gives JAX.
    """
    library = np if isinstance(tiles, np.ndarray) else jnp
    count, groups, _ = scale.shape
    bits = tiles.shape[1] // groups  # 32 numbers are in four times 64 bytes of 16 rows, or in eight
    split = tiles.reshape(count, groups, bits, TILE, 4)
    if bits == 4:
        split = library.stack([split & 15, split >> 4], -2)
    codes = library.moveaxis(split, 3, 1).reshape(count, TILE, groups, GROUP)
    values = codes.astype(np.float32) - np.float32(2 ** (bits - 1))
    scales = scale.astype(np.float32).swapaxes(1, 2)[..., None]
    return (values * scales).reshape(count * TILE, groups * GROUP)
