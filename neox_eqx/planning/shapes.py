"""Shapes as the compiler prints them: element type, dimensions, layout, tiles, memory space."""

import math
import re
from dataclasses import dataclass

from neox_eqx.errors import InputError

HBM = 0

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Shape:
    """An array in memory: `bf16[44,6144]{1,0:T(8,128)(2,1)S(1)}`."""

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    """The dimensions as they lie in memory, from the one whose elements are neighbours."""
    tiles: tuple[tuple[int, ...], ...] = ()
    """Each tile splits the innermost dimensions of what the tiles before it have made."""
    space: int = HBM
    """The memory: 0 is the chip's main memory (HBM), 1 its vector memory, 5 that of the host."""

    @property
    def bits(self) -> int:
        """The size of an element: 16 for bf16, 8 for pred, 0 for token."""
        size = re.search(r"\d+", self.dtype)
        return int(size[0]) if size else 8 * (self.dtype == "pred")

    @property
    def logical_bytes(self) -> int:
        """The size of its elements alone."""
        return math.ceil(math.prod(self.dims) * self.bits / 8)

    @property
    def bytes(self) -> int:
        """What it takes in memory, tiles filled up: a row of 96 takes 128 lanes."""
        dims = list(self.physical)
        for tile in self.tiles:
            dims = [1] * (len(tile) - len(dims)) + dims
            outer, inner = dims[: len(dims) - len(tile)], dims[len(dims) - len(tile) :]
            dims = outer + [-(-dim // size) for dim, size in zip(inner, tile, strict=True)]
            dims += tile
        return math.ceil(math.prod(dims) * self.bits / 8)

    @property
    def hbm_bytes(self) -> int:
        """Those of its bytes that lie in HBM: all or none."""
        return self.bytes if self.space == HBM else 0

    @property
    def physical(self) -> tuple[int, ...]:
        """The dimensions as they lie in memory, the innermost last."""
        return tuple(self.dims[i] for i in reversed(self.minor_to_major)) or self.dims

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def read_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, those of a tuple one after the other.

    Raises:
        InputError: the text is no type.
    """
    found = tuple(_read_array(match) for match in _ARRAY.finditer(text))
    if not found and text.strip("() "):
        raise InputError(f"{text[:80]!r} is no type of the compiler's")
    return found


def _read_array(match: re.Match[str]) -> Shape:
    dtype, dims, layout = match.groups(default="")
    order, _, rest = layout.partition(":")
    tiling = re.search(r"T((?:\([\d,]+\))+)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    return Shape(
        dtype=dtype,
        dims=_numbers(dims),
        minor_to_major=_numbers(order),
        tiles=tuple(map(_numbers, re.findall(r"\(([\d,]+)\)", tiling[1]))) if tiling else (),
        space=int(space[1]) if space else HBM,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
