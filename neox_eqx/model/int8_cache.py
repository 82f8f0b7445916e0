"""Keys and values in 8 bits: about half of bfloat16's bytes to hold and to read for a token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int8

from neox_eqx.errors import InputError
from neox_eqx.model.heads import side_by_side
from neox_eqx.model.kernels.cpu import LARGEST, TINY
from neox_eqx.model.keys_values import KV, KeysValues, mix, scores
from neox_eqx.shown import shown


class Int8KV(KeysValues):
    """A key or value of head j of a group is its scale[..., j] times its int8 numbers.

    There is a scale for each head and slot, so J heads a group have J in each slot. Scales are
    applied to scores and weights: applied to keys and values, they would be written out in float
    (seen with libtpu 0.0.51).
    """

    key: Int8[Array, "*L B G S C"]
    key_scale: Float32[Array, "*L B G S J"]
    value: Int8[Array, "*L B G S C"]
    value_scale: Float32[Array, "*L B G S J"]

    @classmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "Int8KV":
        arrays = (*_rounded(key), *_rounded(value))
        return cls(*(side_by_side(array, together) for array in arrays))

    def scores(self, query: Float[Array, "B H T K"]) -> Float[Array, "B H T S"]:
        scale = _of_heads(self.key_scale, len(query)).astype(query.dtype)
        return scores(query, self.key.astype(query.dtype)) * scale

    def mix(self, weights: Float[Array, "B H T S"], size: int) -> Float32[Array, "B H T K"]:
        scaled = weights * _of_heads(self.value_scale, len(weights)).astype(weights.dtype)
        return mix(scaled, self.value.astype(weights.dtype), size)

    def for_library(self, size: int) -> tuple[Array, ...] | None:
        if self.key.shape[-1] != size:
            return None
        return self.key, self.value, self.key_scale, self.value_scale


CACHES: dict[int, type[KeysValues]] = {8: Int8KV}
"""By the bits of a number, as `load(cache_bits=...)` has it."""


def cache_of(bits: int | None) -> type[KeysValues]:
    """The class that keeps keys and values in so many bits; None is the computation's dtype.

    Raises:
        InputError: there is none for this number.
    """
    if bits is None:
        return KV
    if bits not in CACHES:
        raise InputError(f"cache_bits {shown(bits)} is not supported; it is 8, or left out")
    return CACHES[bits]


def _rounded(
    x: Float[Array, "B H S K"],
) -> tuple[Int8[Array, "B H S K"], Float32[Array, "B H S 1"]]:
    """To a 127th of the largest absolute value of each head and slot."""
    wide = x.astype(jnp.float32)
    scale = (abs(wide).max(-1, keepdims=True) / LARGEST).clip(TINY)
    return (wide / scale).round().astype(jnp.int8), scale


def _of_heads(scale: Float32[Array, "b G S J"], rows: int) -> Float32[Array, "B H 1 S"]:
    """For each of `rows` rows of a batch; those that share keys and values share the scales."""
    by_head = scale.swapaxes(2, 3).reshape(len(scale), -1, 1, scale.shape[2])
    return jnp.repeat(by_head, rows // len(scale), axis=0)
