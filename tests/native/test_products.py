"""Products of the library: right for every shape, and the same bits for a row wherever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.native import library, products
from tests.native.weights import FORMS, normal, rounded, weight

# Measured 4.4e-7: float32 sums of 300 numbers that are not small.
TOLERANCE = 1e-6
SHAPES = [(208, 256), (48, 320), (33, 70), (1, 1), (5, 300), (100, 31)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_float64(
    instruction_sets: list[str], form: str, shape: tuple[int, int]
) -> None:
    own = weight(form, *shape)
    x = normal(21, shape[1])
    taken = rounded(x) if "tiles" in form else x.astype(np.float64)
    exact, size = taken @ own.exact.T, abs(taken) @ abs(own.exact).T
    for name in instruction_sets:
        library.use(name)
        y = np.asarray(own(x), np.float64)
        assert y.shape == exact.shape
        assert (abs(y - exact) <= TOLERANCE * size).all(), name


@pytest.mark.parametrize("form", FORMS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    instruction_sets: list[str], form: str
) -> None:
    own = weight(form, 150, 230)
    x = normal(301, 230)
    for name in instruction_sets:
        library.use(name)
        whole = np.asarray(own(x))
        for rows in (*range(1, 8), 12, 16, 17, 33, 96):
            np.testing.assert_array_equal(own(x[-rows:]), whole[-rows:], f"{name}, {rows} rows")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 40])
def test_threads_change_no_bit(instruction_sets: list[str], form: str, rows: int) -> None:
    own = weight(form, 2000, 512)
    x = normal(rows, 512)
    library.use(threads=1)
    alone = np.asarray(own(x))
    library.use(threads=2)
    for _ in range(5):
        np.testing.assert_array_equal(own(x), alone)


@pytest.mark.parametrize("form", FORMS)
def test_avx2_has_the_bits_of_avx512(instruction_sets: list[str], form: str) -> None:
    if instruction_sets[:2] != ["avx512", "avx2"]:
        pytest.skip("this machine has not both")
    own, x = weight(form, 70, 230), normal(19, 230)
    both = []
    for name in instruction_sets[:2]:
        library.use(name)
        both.append(np.asarray(own(x)))
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_shows_in_its_own_row_and_no_other(
    instruction_sets: list[str], form: str, bad: float
) -> None:
    own, x = weight(form, 40, 75), normal(5, 75)
    changed = x.copy()
    for column, row in ((0, 1), (74, 3)):
        changed[row, column] = bad
    for name in instruction_sets:
        library.use(name)
        y, clean = np.asarray(own(changed)), np.asarray(own(x))
        np.testing.assert_array_equal(y[[0, 2, 4]], clean[[0, 2, 4]])
        if "tiles" in form or np.isnan(bad):
            assert np.isnan(y[[1, 3]]).all(), name
        else:
            assert not np.isfinite(y[[1, 3]]).any(), name


@pytest.mark.parametrize("form", ["tiles4", "tiles8"])
def test_numbers_that_are_too_small_to_round_are_zero(
    instruction_sets: list[str], form: str
) -> None:
    own = weight(form, 16, 64)
    x = np.full((1, 64), 1e-37, np.float32)
    x[:, 32:] = 1e-30
    for name in instruction_sets:
        library.use(name)
        np.testing.assert_allclose(own(x), x[:, 32:] @ own.exact[:, 32:].T, rtol=1e-5)


def test_what_is_no_number_in_a_weight_shows_in_its_own_column(
    instruction_sets: list[str],
) -> None:
    values = np.ones((20, 50), np.float16)
    values[3, 7], values[9, 49] = np.nan, np.inf
    own = weight("float16", 20, 50)
    for name in instruction_sets:
        library.use(name)
        y = np.asarray(own.product(jnp.ones((2, 50)), jnp.asarray(values)))
        assert np.isnan(y[:, 3]).all() and np.isinf(y[:, 9]).all()
        assert (np.delete(y, [3, 9], axis=1) == 50).all()


def test_float16_numbers_of_every_size_are_read(instruction_sets: list[str]) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    own = weight("float16", 1, 1)
    for name in instruction_sets:
        library.use(name)
        y = own.product(jnp.ones((1, 1)), jnp.asarray(every[:, None]))
        np.testing.assert_array_equal(y[0], every.astype(np.float32))


@pytest.mark.typed
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [(0,), (3, 0, 2), ()])
def test_leading_axes_stay(instruction_sets: list[str], form: str, rows: tuple[int, ...]) -> None:
    own = weight(form, 24, 64)
    x = normal(*rows, 64)
    y = own(x)
    assert (y.dtype, y.shape) == (np.float32, (*rows, 24))
    flat = own(x.reshape(-1, 64))
    np.testing.assert_array_equal(np.asarray(y).reshape(-1, 24), flat)


def test_a_weight_without_rows_or_numbers_gives_none_or_zeros(
    instruction_sets: list[str],
) -> None:
    own = weight("float16", 1, 1)
    assert own.product(jnp.ones((2, 8)), jnp.ones((0, 8), jnp.float16)).shape == (2, 0)
    zeros = own.product(jnp.ones((2, 0)), jnp.ones((3, 0), jnp.float16))
    np.testing.assert_array_equal(zeros, np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_x_in_16_bits_is_taken_as_it_is(instruction_sets: list[str], dtype: str) -> None:
    own = weight(dtype, 16, 40)
    x = jnp.asarray(normal(3, 40), dtype)
    np.testing.assert_array_equal(own(x), own(x.astype(jnp.float32)))


def test_the_handler_refuses_what_it_would_read_outside_of(instruction_sets: list[str]) -> None:
    def call(out: int, *arrays: jax.Array) -> object:
        result = jax.ShapeDtypeStruct((2, out), jnp.float32)
        return jax.ffi.ffi_call(library.PRODUCT, result)(*arrays)

    x, half = jnp.ones((2, 64)), jnp.ones((32, 64), jnp.float16)
    tiles, scale = jnp.zeros((2, 8, 64), jnp.uint8), jnp.zeros((2, 2, 16), jnp.float16)
    row = jnp.ones(32)
    wrong = {
        "shape is not": [(33, x, half), (32, x[:, :60], half), (32, x, row.astype(jnp.float16))],
        "x is not float32": [(32, x.astype(jnp.bfloat16), half)],
        "not two axes": [(32, x[None], half)],
        "float16, bfloat16 or int8": [(32, x, half.astype(jnp.float32))],
        "int8 has a scale": [(32, x, half.astype(jnp.int8)), (32, x, half, row)],
        "scale is not float32": [(32, x, half.astype(jnp.int8), row[:31])],
        "16 rows and groups of 32": [(31, x, tiles, scale), (32, x[:, :63], tiles, scale)],
        "tiles are uint8": [(32, x, tiles[:, :7], scale), (32, x, tiles[:1], scale)],
        "tiles have scales": [(32, x, tiles)],
        "scales of tiles": [(32, x, tiles, scale[:, :1]), (32, x, tiles, row)],
        "at most": [(32, x, half.astype(jnp.int8), row, row)],
    }
    for message, calls in wrong.items():
        for arguments in calls:
            with pytest.raises(Exception, match=message):
                jax.block_until_ready(call(*arguments))


def test_all_words_are_read(instruction_sets: list[str]) -> None:
    generator = np.random.default_rng(0)
    for size in (0, 1, 127, 128, 300_001, 2**18 * 3):
        words = generator.integers(0, 2**32, size, np.uint32)
        found = jax.jit(products.read)(jnp.asarray(words))
        assert int(found[0]) == np.bitwise_xor.reduce(words, initial=0)
