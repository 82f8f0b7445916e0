"""Rounding a weight to tiles of 4 bits with the library, where `library.is_available()`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float16, Float32, UInt8

from neox_eqx.native.library import ENCODE
from neox_eqx.native.tiles import GROUP, TILE


def encoded(
    weight: Float32[Array, "out in"],
) -> tuple[UInt8[Array, "T steps 64"], Float16[Array, "T G 16"]]:
    """Codes and scales, as `tiles` lays them out. Rows are whole tiles, inputs whole groups."""
    rows, columns = weight.shape
    call = jax.ffi.ffi_call(
        ENCODE,
        (
            jax.ShapeDtypeStruct((rows // TILE, columns // 8, 4 * TILE), jnp.uint8),
            jax.ShapeDtypeStruct((rows // TILE, columns // GROUP, TILE), jnp.float16),
        ),
        vmap_method="sequential",
    )
    codes, scale = call(weight)
    return codes, scale
