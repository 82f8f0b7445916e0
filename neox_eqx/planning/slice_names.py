"""Slices by the names under which they are rented, such as v4-32 or v5litepod-16.

The number counts TensorCores where a chip has two, and chips elsewhere. Where several shapes have
as many chips, a name stands for the one nearest to a cube: so say the tables of
cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e, and of GKE's TPU topologies.
"""

import itertools
import math
import re

from neox_eqx.errors import InputError

_OF_TWO_CORES = ("v4", "v5p")
_COUNT_CHIPS = {"v5e": "v5e", "v5litepod": "v5e", "v6e": "v6e"}
_NOT_PLANNED = ("v2", "v3")

# The shape for each number of chips: of v5e and v6e, and of slices within a cube of v4 and v5p.
_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
_SQUARES |= {128: "8x16", 256: "16x16"}
_WITHIN_A_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4"}
_CUBE = 4
"""Chips on each side of the cubes that larger slices are made of."""
_MOST_CUBES = 7
"""Cubes on a side: the longest side of a v5p pod has 28 chips."""


def topology_of(name: str) -> str | None:
    """v4:2x2x4 for v4-32; None where `name` has another form.

    Raises:
        InputError: there is no slice of this name, or none that can be planned for.
    """
    match = re.fullmatch(r"(v\d\w*)-(\d{1,5})", name)
    if not match:
        return None
    kind, number = match[1], int(match[2])
    if kind in _NOT_PLANNED:
        raise InputError(
            f"{name} is a slice of TPU {kind}; plans are made for v4, v5e, v5p and v6e alone"
        )
    if kind in _COUNT_CHIPS:
        chip, shape, example = _COUNT_CHIPS[kind], _SQUARES.get(number), "2x4"
        sizes = ", ".join(map(str, _SQUARES))
    elif kind in _OF_TWO_CORES:
        chip, shape, example = kind, None if number % 2 else _cuboid(number // 2), "2x2x4"
        sizes = "8, 16, 32, 64 and multiples of 128"
    else:
        return None
    if shape is None:
        raise InputError(
            f"there is no slice {name}: those of {kind} have {sizes} {counts(name)}; "
            f"or give a shape, as {chip}:{example}"
        )
    return f"{chip}:{shape}"


def counts(name: str) -> str:
    """What the number in a name counts."""
    return "TensorCores, two a chip" if name.split("-")[0] in _OF_TWO_CORES else "chips"


def _cuboid(chips: int) -> str | None:
    if chips in _WITHIN_A_CUBE or chips % _CUBE**3:
        return _WITHIN_A_CUBE.get(chips)
    sides = range(1, _MOST_CUBES + 1)
    shapes = [
        shape
        for shape in itertools.combinations_with_replacement(sides, 3)
        if math.prod(shape) == chips // _CUBE**3
    ]
    return "x".join(str(_CUBE * side) for side in min(shapes, key=sum)) if shapes else None
