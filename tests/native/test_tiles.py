"""The layout of tiles is that of the page: byte by byte, from NumPy and from JAX."""

import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.native.tiles import tiled, untiled


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("library", [np, jnp])
def test_each_code_and_scale_is_where_the_docstring_says(bits: int, library: object) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2**bits, (2, 35, 70)).astype(np.uint8)
    scale = generator.standard_normal((2, 35, 3)).astype(np.float16)
    laid, scales = tiled(library.asarray(codes), library.asarray(scale), bits=bits)
    per = 32 // bits
    assert (laid.shape, scales.shape) == ((2, 3, 96 // per, 64), (2, 3, 3, 16))
    assert isinstance(laid, np.ndarray) == (library is np)
    laid, scales = np.asarray(laid), np.asarray(scales)
    for batch, row, k in np.ndindex(2, 48, 96):
        byte = laid[batch, row // 16, k // per, 4 * (row % 16) + k % 4]
        code = byte if bits == 8 else byte >> 4 if k % 8 >= 4 else byte & 15
        there = row < 35 and k < 70
        assert code == (codes[batch, row, k] if there else 2 ** (bits - 1))
        own = scales[batch, row // 16, k // 32, row % 16]
        assert own == (scale[batch, row, k // 32] if row < 35 else 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_weight_comes_back(bits: int) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2**bits, (20, 40)).astype(np.uint8)
    scale = generator.standard_normal((20, 2)).astype(np.float16)
    back = np.asarray(untiled(*map(jnp.asarray, tiled(codes, scale, bits=bits))))
    wide = np.repeat(scale.astype(np.float32), 32, axis=1)[:, :40]
    np.testing.assert_array_equal(
        back[:20, :40], (codes.astype(np.float32) - 2 ** (bits - 1)) * wide
    )
    assert not back[20:].any() and not back[:, 40:].any()
