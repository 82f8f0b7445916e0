"""Weights in 4 bits as a file has them: row by row, whatever machine is to read them.

Codes are 0 to 15, and 8 is that of zero. Two of them are a byte: byte 4j + b of a row has number
8j + b in its lower half, and 8j + 4 + b in its upper, so that four bytes together are what a tile
of `native.tiles` has of a row. There is a scale for each 32 numbers, and what is missing of the
last 32 is there, with the code of zero.
"""

import numpy as np
from jaxtyping import Float16, UInt8

from neox_eqx.native.tiles import GROUP, TILE

_ZEROS = 0x88
"""Two codes of zero."""
_WORD = 4
"""Bytes that stay together."""


def packed(codes: UInt8[np.ndarray, "rows in"]) -> UInt8[np.ndarray, "rows half"]:
    """Codes of whole groups, two a byte."""
    split = codes.reshape(len(codes), -1, 2, _WORD)
    return (split[:, :, 0] | split[:, :, 1] << 4).reshape(len(codes), -1)


def unpacked(rows: UInt8[np.ndarray, "rows half"]) -> UInt8[np.ndarray, "rows in"]:
    """What `packed` was given."""
    split = rows.reshape(len(rows), -1, _WORD)
    return np.stack([split & 15, split >> 4], -2).reshape(len(rows), -1)


def with_columns(stored: dict[str, np.ndarray], columns: int) -> dict[str, np.ndarray]:
    """Rows of a file, each with groups of zeros after it up to so many numbers."""
    missing = -(-columns // GROUP) - stored["scale"].shape[1]
    if missing <= 0:
        return stored
    weight = np.pad(stored["weight"], ((0, 0), (0, missing * GROUP // 2)), constant_values=_ZEROS)
    return {"weight": weight, "scale": np.pad(stored["scale"], ((0, 0), (0, missing)))}


def tiles_of_rows(
    weight: UInt8[np.ndarray, "rows half"], scale: Float16[np.ndarray, "rows groups"]
) -> dict[str, np.ndarray]:
    """Rows of a file, with rows of zeros up to whole tiles, as an Int4Linear has them."""
    missing = -len(weight) % TILE
    weight = np.pad(weight, ((0, missing), (0, 0)), constant_values=_ZEROS)
    scale = np.pad(scale, ((0, missing), (0, 0)))
    groups = scale.shape[1]
    words = np.ascontiguousarray(weight).view(np.uint32).reshape(-1, TILE, weight.shape[1] // _WORD)
    tiles = np.ascontiguousarray(words.swapaxes(1, 2)).view(np.uint8)
    return {
        "weight": tiles.reshape(len(words), groups, -1, _WORD * TILE),
        "scale": scale.reshape(-1, TILE, groups).swapaxes(1, 2),
    }


def rows_of_tiles(
    weight: UInt8[np.ndarray, "tiles groups 4 64"], scale: Float16[np.ndarray, "tiles groups 16"]
) -> dict[str, np.ndarray]:
    """The arrays of an Int4Linear as a file has them, with the rows that fill up the last tile."""
    tiles, groups, _ = scale.shape
    words = np.ascontiguousarray(weight).view(np.uint32).reshape(tiles, -1, TILE)
    rows = np.ascontiguousarray(words.swapaxes(1, 2)).view(np.uint8)
    return {
        "weight": rows.reshape(tiles * TILE, -1),
        "scale": scale.swapaxes(1, 2).reshape(tiles * TILE, groups),
    }
