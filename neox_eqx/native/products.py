"""Products with the library, for use inside jit on a CPU alone, where `library.is_available()`.

Results are float32. A row has the same bits alone and in any batch. What is no number in a row of
x shows in its own row of y and no other: by rows as IEEE 754 has it; with tiles, whose numbers of x
are rounded to int8 in groups of 32, the whole row of y is NaN. Gradients are those of the weight as
float32, and of tiles those of x as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Float16, Float32, Int8, UInt8, UInt32

from neox_eqx.native.library import PRODUCT, READ
from neox_eqx.native.partition import Rule, partitioned
from neox_eqx.native.tiles import GROUP, TILE, untiled


def dot_16_bits(
    x: Float[Array, "*B in"], weight: Float[Array, "out in"]
) -> Float32[Array, "*B out"]:
    """x Wᵀ of a weight in float16 or bfloat16, with float32 sums."""
    return _with_rows(_ROWS_16, x, weight)


def dot_int8(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float32[Array, "*B out"]:
    """x Wᵀ, where row r of W is scale[r] * weight[r]; nothing of x is rounded."""
    return _with_rows(_ROWS_8, x, weight, scale)


def dot_tiles(
    x: Float[Array, "*B in"],
    tiles: UInt8[Array, "T steps 64"],
    scale: Float16[Array, "T G 16"],
    *,
    out: int,
) -> Float32[Array, "*B {out}"]:
    """x Wᵀ of a weight as `tiles.tiled` lays it out; the first `out` of its rows count.

    32 numbers of x at a time are rounded to int8, to a 127th of the largest.
    """
    missing = scale.shape[1] * GROUP - x.shape[-1]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
    form = _TILES_4 if tiles.shape[1] == 4 * scale.shape[1] else _TILES_8
    return _with_rows(form, x, tiles, scale)[..., :out]


def read(x: Array) -> UInt32[Array, "1"]:
    """The bitwise sum of x's 32-bit words: how long it takes is how fast memory is read."""
    return jax.ffi.ffi_call(READ, jax.ShapeDtypeStruct((1,), jnp.uint32))(x)


@dataclasses.dataclass(frozen=True)
class _Form:
    """A way in which a weight lies."""

    rule: Rule
    dense: Callable[..., Float32[Array, "out in"]]
    """The weight that the arrays stand for."""
    tile: int = 1
    """Rows of W for each entry of the first array."""


def _dense_rows(weight: Array, scale: Array | None = None) -> Float32[Array, "out in"]:
    wide = weight.astype(jnp.float32)
    return wide if scale is None else wide * scale[:, None]


def _rule_of_tiles(bits: int) -> Rule:
    return Rule(
        # What is summed is `k` in x and `g` in the weight, which alone says how it is split: the
        # numbers of x may divide over devices where the groups do not.
        "m k, n (g s) l, n g r -> m (n r)",
        ("k", "g"),
        lambda n, k: (PartitionSpec(n, k, None), PartitionSpec(n, k, None)),
        (("s", bits),),
    )


_ROWS_16 = _Form(Rule("m k, n k -> m n", ("k",), lambda n, k: (PartitionSpec(n, k),)), _dense_rows)
_ROWS_8 = _Form(
    Rule("m k, n k, n -> m n", ("k",), lambda n, k: (PartitionSpec(n, k), PartitionSpec(n))),
    _dense_rows,
)
_TILES_4 = _Form(_rule_of_tiles(4), untiled, TILE)
_TILES_8 = _Form(_rule_of_tiles(8), untiled, TILE)


def _with_rows(form: _Form, x: Float[Array, "*B in"], *weight: Array) -> Float32[Array, "*B out"]:
    """The leading axes of x become one, as the library has it."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(jnp.float32)
    y = _product(form, rows, *weight)
    return y.reshape(*x.shape[:-1], y.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(form: _Form, rows: Array, *weight: Array) -> Array:
    return _batched(form)(rows, *weight)


def _forward(form: _Form, rows: Array, *weight: Array) -> tuple[Array, tuple[Array, ...]]:
    return _product(form, rows, *weight), (rows, *weight)


def _backward(form: _Form, saved: tuple[Array, ...], gradient: Array) -> tuple[Any, ...]:
    def in_jax(rows: Array, *weight: Array) -> Array:
        dims = (((1,), (1,)), ((), ()))
        return lax.dot_general(rows, form.dense(*weight), dims, precision=lax.Precision.HIGHEST)

    return jax.vjp(in_jax, *saved)[1](gradient)


_product.defvjp(_forward, _backward)


@cache
def _batched(form: _Form) -> Callable[..., Array]:
    """The call, which under vmap takes a batch of rows as rows, and weights one after the other."""
    on_device = partial(_call, form.tile)
    on_mesh = partitioned(on_device, form.rule)

    @custom_vmap
    def call(*arrays: Array) -> Array:
        # Where shard_map tells what varies over devices, each of them computes by itself.
        alone = any(map(_varying, arrays)) or not _may_be_split(form, arrays[-1])
        return (on_device if alone else on_mesh)(*arrays)

    @call.def_vmap
    def of_batch(size: int, batched: Sequence[bool], *arrays: Array) -> tuple[Array, bool]:
        rows, *weight = arrays
        if not any(batched[1:]):
            y = call(rows.reshape(size * rows.shape[1], rows.shape[2]), *weight)
            return y.reshape(size, rows.shape[1], y.shape[1]), True
        each = [
            array if own else jnp.broadcast_to(array, (size, *array.shape))
            for array, own in zip(arrays, batched, strict=True)
        ]
        return lax.map(lambda own: call(*own), tuple(each)), True

    return call


def _may_be_split(form: _Form, scale: Array) -> bool:
    """Whether tiles and groups divide over devices, whatever the mesh; JAX 0.10.2 fails on others.

    It has no rule for a single one either. All devices then compute with the whole weight.
    """
    counts = scale.shape[:2]
    return form.tile == 1 or (1 not in counts and not any(n % jax.device_count() for n in counts))


def _varying(array: Array) -> frozenset[str]:
    """The axes of the mesh along which shard_map says that the array is not everywhere the same."""
    return jax.typeof(array).manual_axis_type.varying


def _call(tile: int, *arrays: Array) -> Array:
    """On one device. The result varies as the arguments do, which must be alike in that."""
    varying = frozenset[str]().union(*map(_varying, arrays))
    alike = [
        lax.pcast(array, tuple(sorted(varying - _varying(array))), to="varying") for array in arrays
    ]
    rows, weight, *_ = alike
    kind = jax.typeof(rows)
    how = {"sharding": kind.sharding, "manual_axis_type": kind.manual_axis_type} if varying else {}
    result = jax.ShapeDtypeStruct((len(rows), tile * len(weight)), jnp.float32, **how)
    return jax.ffi.ffi_call(PRODUCT, result)(*alike)
