"""Weights in 4 bits with a scale for each group of 32 inputs: 4.5 bits a number to read."""

import math
from functools import partial
from types import ModuleType
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float16, UInt8

from neox_eqx.model.int4_file import rows_of_tiles, tiles_of_rows, with_columns
from neox_eqx.model.kernels import any as everywhere
from neox_eqx.model.linear import Linear
from neox_eqx.model.quantized import Numbers, QuantizedLinear
from neox_eqx.native import library, products
from neox_eqx.native.encode import encoded
from neox_eqx.native.tiles import GROUP, TILE, tiled, untiled
from neox_eqx.sharding.rules import Axes

STEPS = 4
"""Vectors of 64 bytes, with 8 inputs of 16 rows each, in a group."""
ZERO = 8
"""The code of 0; codes are 0 to 15."""
_TRIES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Of the largest number of a group, the shares that code 0 is tried for."""
_LARGEST_SCALE = 65504.0
"""In float16."""
LARGEST = ZERO * _LARGEST_SCALE
"""The largest absolute value of a number: that of code 0 with the largest scale."""


class Int4Linear(QuantizedLinear):
    """A number of the weight is scale * (code - 8), laid out as `native.tiles` has it.

    Rows and inputs are filled up with zeros to whole tiles of 16 and groups of 32.
    """

    weight: UInt8[Array, "*L tiles groups 4 64"]
    scale: Float16[Array, "*L tiles groups 16"]
    size: tuple[int, int] = eqx.field(static=True)
    """(out, in)"""
    name: ClassVar[str] = "int4"
    rows_together: ClassVar[int] = TILE
    largest: ClassVar[float] = LARGEST

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.weight.shape[:-4], *self.size)

    @classmethod
    def of(cls, linear: Linear) -> "Int4Linear":
        out, size = linear.shape[-2:]
        arrays = cls.encode(linear.weight.astype(jnp.float32))
        return cls(bias=linear.bias, axes=linear.axes, size=(out, size), **arrays)

    @classmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        """As `QuantizedLinear.encode`: the scale of a group is one that leaves a small error.

        Of a few tries the one with the least squared error is taken: the number that is largest in
        absolute value gets code 0, or would get a lower one if there were; and of each try's codes
        the scale is what fits them best.
        """
        layers: tuple[int, ...] = weight.shape[:-2]
        full = filled(weight, rows=TILE)
        rows = full.reshape(-1, full.shape[-1])
        codes, scale = _encoded(rows)
        tiles, groups, _ = scale.shape
        where = (*layers, tiles // int(np.prod(layers, dtype=int)), groups)
        return {
            "weight": codes.reshape(*where, STEPS, STEPS * TILE),
            "scale": scale.reshape(*where, TILE),
        }

    @classmethod
    def values(cls, arrays: dict[str, Numbers]) -> Numbers:
        weight, scale = arrays["weight"], arrays["scale"]
        *layers, tiles, groups, _ = scale.shape
        count = math.prod((*layers, tiles))
        whole = untiled(
            weight.reshape(count, groups * STEPS, STEPS * TILE), scale.reshape(count, groups, TILE)
        )
        return whole.reshape(*layers, tiles * TILE, groups * GROUP)

    @classmethod
    def to_file(cls, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return rows_of_tiles(arrays["weight"], arrays["scale"])

    @classmethod
    def from_file(cls, stored: dict[str, np.ndarray], columns: int) -> dict[str, np.ndarray]:
        return tiles_of_rows(**with_columns(stored, columns))

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype. On a CPU with the library, 32 inputs at a time are rounded to int8."""
        tiles, groups, _, size = self.weight.shape
        arrays = (x, self.weight.reshape(tiles, groups * STEPS, size), self.scale)
        in_jax = partial(_product, self.size)
        by_library = partial(_product_by_library, self.size)
        # Inputs that are no whole groups may lie on a mesh in ways that the library's do not.
        fits = self.size[1] % GROUP == 0
        on_cpu = by_library if library.is_available() and fits else in_jax
        return lax.platform_dependent(*arrays, cpu=on_cpu, default=in_jax)

    def axes_of(self, name: str) -> Axes:
        of_weight = (*self.axes, None, None)
        return {"weight": of_weight, "scale": of_weight[:-1], "bias": of_weight[:1]}[name]


def _product_by_library(
    shape: tuple[int, int],
    x: Float[Array, "*B in"],
    tiles: UInt8[Array, "tiles steps 64"],
    scale: Float16[Array, "tiles groups 16"],
) -> Float[Array, "*B out"]:
    return products.dot_tiles(x, tiles, scale, out=shape[0]).astype(x.dtype)


def _product(
    shape: tuple[int, int],
    x: Float[Array, "*B in"],
    tiles: UInt8[Array, "tiles steps 64"],
    scale: Float16[Array, "tiles groups 16"],
) -> Float[Array, "*B out"]:
    # Without the barrier XLA would write the weight out before the decoding loop.
    x, tiles, scale = lax.optimization_barrier((x, tiles, scale))
    out, columns = shape
    return everywhere.dot(x, untiled(tiles, scale)[:out, :columns].astype(x.dtype))


def _encoded(rows: Numbers) -> tuple[Numbers, Numbers]:
    """Codes and scales of whole tiles and groups, in the library's layout."""
    if not library.is_available():
        groups = rows.reshape(len(rows), -1, GROUP)
        scale = best_scale(groups)
        codes = (rounded(groups, scale.astype(np.float32)) + ZERO).astype(np.uint8)
        return tiled(codes.reshape(rows.shape), scale, bits=4)
    both = encoded(jnp.asarray(rows))
    return both if isinstance(rows, jax.Array) else tuple(map(np.asarray, both))  # type: ignore[return-value]


def filled(weight: Numbers, *, rows: int) -> Numbers:
    """A weight (..., out, in) with zeros up to a multiple of `rows`, and to whole groups."""
    *layers, out, columns = weight.shape
    widths = [*[(0, 0)] * len(layers), (0, -out % rows), (0, -columns % GROUP)]
    return _library(weight).pad(weight, widths)


def best_scale(groups: Numbers) -> Numbers:
    """The scale (...), float16, of each group (..., 32), float32, as `Int4Linear.encode` has it."""
    xp = _library(groups)
    at = abs(groups).argmax(-1, keepdims=True)
    largest = xp.take_along_axis(groups, at, -1)[..., 0]
    best, least = xp.zeros(largest.shape, np.float16), xp.full(largest.shape, np.inf, np.float32)
    for factor in _TRIES:
        codes = rounded(groups, largest * np.float32(factor / -ZERO))
        norm = _sum(codes * codes)
        scale = _sum(groups * codes) / xp.where(norm == 0, np.float32(1), norm)
        scale = scale.clip(-_LARGEST_SCALE, _LARGEST_SCALE).astype(np.float16)
        wide = scale.astype(np.float32)
        off = rounded(groups, wide) * wide[..., None] - groups
        error = _sum(off * off)
        best, least = xp.where(error < least, scale, best), xp.minimum(error, least)
    return best


def _sum(groups: Numbers) -> Numbers:
    """Of the 32 numbers of each group, one after the other, as the library adds them."""
    total = groups[..., 0]
    for number in range(1, GROUP):
        total = total + groups[..., number]
    return total


def rounded(groups: Numbers, scale: Numbers) -> Numbers:
    """Codes less 8, from -8 to 7, of groups (..., n) with scales (...); all are float32."""
    divisor = _library(groups).where(scale == 0, np.float32(1), scale)[..., None]
    return (groups / divisor).round().clip(-ZERO, ZERO - 1)


def _library(array: Numbers) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np
