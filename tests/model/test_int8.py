"""int8 weights: how they are rounded, and that products with them are exact but for that."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from neox_eqx.model.formats import is_quantized, quantized
from neox_eqx.model.int8 import Int8Linear, project_int8, quantize_rows
from neox_eqx.model.kernels.any import FEW_ROWS, dequantize
from neox_eqx.model.kernels.cpu import DIGIT_ROWS, dot_int8_in_jax
from neox_eqx.model.linear import Linear, project
from neox_eqx.model.neox import GPTNeoX
from tests.hf_models import family, our_logits, padded_batch, stack_layers

ROWS = [1, 3, DIGIT_ROWS, DIGIT_ROWS + 1, FEW_ROWS + 1]
# By the library, where there is one, and without it.
PRODUCTS = [project_int8, dot_int8_in_jax]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def weight_with_all_kinds_of_rows() -> np.ndarray:
    """Large, small, lopsided, of zeros, of one value, and of values below the normal numbers."""
    weight = normal(12, 40)
    weight[1] *= 1e30
    weight[2] *= 1e-30
    weight[3, 0] = 1e3
    weight[4] = 0
    weight[5] = -2.5
    weight[6] = np.float32(1e-40)
    return weight


@pytest.mark.parametrize("library", [np, jnp])
def test_a_rounded_weight_is_within_half_a_step_in_every_row(library: object) -> None:
    weight = weight_with_all_kinds_of_rows()
    rounded, scale = quantize_rows(library.asarray(weight))
    assert (rounded.dtype, scale.dtype) == (np.int8, np.float32)
    assert np.abs(np.asarray(rounded, np.int32)).max() == 127
    back = np.asarray(rounded, np.float64) * np.asarray(scale, np.float64)[:, None]
    # A millionth beside the half, for float32's own rounding of value / scale.
    assert (np.abs(back - weight).max(-1) <= 0.500001 * scale).all()
    normal_rows = np.abs(weight).max(-1) > 1e-36
    largest = np.abs(weight).max(-1)
    np.testing.assert_allclose(scale[normal_rows] * 127, largest[normal_rows], rtol=3e-7)


def test_numpy_and_jax_round_to_the_same_bits() -> None:
    weight = normal(3, 64, 48)
    for one, other in zip(quantize_rows(weight), quantize_rows(jnp.asarray(weight)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_in_the_middle_become_the_even_step() -> None:
    rounded, _ = quantize_rows(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))
    np.testing.assert_array_equal(rounded, [[127, 0, 2, 2, 0, -2]])


def test_a_row_of_zeros_gives_zeros() -> None:
    linear = Int8Linear.of(Linear(jnp.zeros((5, 8)), None, ("mlp", "embed")))
    np.testing.assert_array_equal(linear(jnp.full((2, 8), 1e30)), np.zeros((2, 5)))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [2, DIGIT_ROWS + 1])
def test_a_row_of_zeros_has_products_of_zero(rows: int, product: Callable[..., jax.Array]) -> None:
    weight, scale = map(jnp.asarray, quantize_rows(normal(40, 96)))
    x = jnp.asarray(normal(rows, 96, seed=1)).at[1].set(0)
    np.testing.assert_array_equal(product(x, weight, scale)[1], np.zeros(40))


def relative_error(x: np.ndarray, weight: np.ndarray, actual: jax.Array) -> float:
    """Of x Wᵀ, against the size of what is summed."""
    exact = x.astype(np.float64) @ weight.T
    size = np.abs(x).astype(np.float64) @ np.abs(weight).T
    return float((np.abs(np.asarray(actual, np.float64) - exact) / size).max())


@pytest.mark.typed
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", ROWS)
def test_products_are_those_of_numpy_with_the_rounded_weight(
    dtype: str, rows: int, product: Callable[..., jax.Array]
) -> None:
    weight, scale = quantize_rows(normal(40, 96))
    x = jnp.asarray(normal(rows, 96, seed=1), dtype)
    actual = jax.jit(product)(x[:, None], jnp.asarray(weight), jnp.asarray(scale))
    assert (actual.dtype, actual.shape) == (dtype, (rows, 1, 40))
    rounded = weight * scale.astype(np.float64)[:, None]
    # Measured 6.6e-8, and for 16 bits that of rounding the result once.
    limit = 1e-7 if dtype == "float32" else float(jnp.finfo(dtype).eps) / 2
    assert relative_error(np.asarray(x, np.float64), rounded, actual[:, 0]) <= limit


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [1, DIGIT_ROWS])
def test_a_row_is_held_to_a_part_in_2_to_the_24_of_its_largest_value(
    rows: int, product: Callable[..., jax.Array]
) -> None:
    weight, scale = quantize_rows(normal(40, 96))
    x = normal(rows, 96, seed=1)
    x[0, 5] = 300.0
    actual = np.asarray(product(jnp.asarray(x), jnp.asarray(weight), jnp.asarray(scale)))
    rounded = weight * scale.astype(np.float64)[:, None]
    largest = np.abs(x).max(-1, keepdims=True).astype(np.float64)
    error = np.abs(actual - x.astype(np.float64) @ rounded.T)
    assert (error <= 2**-24 * largest * np.abs(rounded).sum(-1)).all()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_shows_in_its_own_row_and_no_other(
    rows: int, bad: float, product: Callable[..., jax.Array]
) -> None:
    weight, scale = map(jnp.asarray, quantize_rows(normal(40, 96)))
    x = normal(rows + 1, 96, seed=1)[:rows]
    clean = np.asarray(product(jnp.asarray(x), weight, scale))
    x[0, 7] = bad
    y = np.asarray(product(jnp.asarray(x), weight, scale))
    assert not np.isfinite(y[0]).any()
    np.testing.assert_array_equal(y[1:], clean[1:])


@pytest.mark.parametrize("product", PRODUCTS)
def test_sums_that_int32_cannot_hold_are_not_made_in_it(
    product: Callable[..., jax.Array],
) -> None:
    size = 2**31 // 127**2 + 100
    weight, scale = quantize_rows(np.ones((2, size), np.float32))
    y = product(jnp.ones((1, size)), jnp.asarray(weight), jnp.asarray(scale))
    np.testing.assert_allclose(y, size, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 20])
def test_an_accelerator_multiplies_by_the_rounded_weight(dtype: str, rows: int) -> None:
    """The program for a TPU: the weight enters in int8 and the product takes it in `dtype`."""
    shapes = [
        jax.ShapeDtypeStruct((rows, 96), dtype),
        jax.ShapeDtypeStruct((40, 96), jnp.int8),
        jax.ShapeDtypeStruct((40,), jnp.float32),
    ]
    text = jax.jit(project_int8).trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert f"tensor<40x96x{short}>" in text and text.count("stablehlo.dot_general") == 1
    assert "optimization_barrier" in text if rows == 1 else "optimization_barrier" not in text
    weight, scale = map(jnp.asarray, quantize_rows(normal(40, 96)))
    x = jnp.asarray(normal(rows, 96, seed=1), dtype)
    accelerated = project(x, dequantize(weight, scale, x.dtype))
    rounded = np.asarray(weight) * np.asarray(scale, np.float64)[:, None]
    # Measured 0.7 of it, with JAX 0.12 1.6.
    limit = 2 * float(jnp.finfo(dtype).eps)
    assert relative_error(np.asarray(x, np.float64), rounded, accelerated) <= limit


def temporaries(step: Callable[..., jax.Array], rows: int) -> int:
    """Bytes beside arguments and results of a loop of products with an int8 weight of 1 MiB."""
    shapes = (
        jax.ShapeDtypeStruct((rows, 1024), jnp.float32),
        jax.ShapeDtypeStruct((1024, 1024), jnp.int8),
        jax.ShapeDtypeStruct((1024,), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )

    def loop(x: jax.Array, weight: jax.Array, scale: jax.Array, count: jax.Array) -> jax.Array:
        return lax.fori_loop(0, count, lambda _, x: step(x, weight, scale) / 100, x)

    analysis = jax.jit(loop).lower(*shapes).compile().memory_analysis()
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [1, DIGIT_ROWS, FEW_ROWS, 40])
def test_no_float_copy_of_the_weight_is_made(rows: int, product: Callable[..., jax.Array]) -> None:
    assert temporaries(product, rows) < 2**20


def test_a_float_copy_would_be_noticed() -> None:
    """Control: XLA converts the weight before the loop, and keeps four times its bytes."""

    def naive(x: jax.Array, weight: jax.Array, scale: jax.Array) -> jax.Array:
        return project(x, dequantize(weight, scale, x.dtype))

    assert temporaries(naive, 40) >= 4 * 2**20


@functools.cache
def quantized_family(name: str) -> GPTNeoX:
    return quantized(family(name)[1])


def rounded_as_float(model: GPTNeoX) -> GPTNeoX:
    """The float model with the values that the int8 one stands for."""

    def of_node(node: object) -> object:
        if not isinstance(node, Linear):
            return node
        weight = np.asarray(node.weight, np.float32) * np.asarray(node.scale)[:, None]
        return Linear(jnp.asarray(weight), node.bias, node.axes)

    return jax.tree.map(of_node, model, is_leaf=lambda node: isinstance(node, Linear))


@pytest.mark.parametrize("name", ["redpajama-3b", "no-attention-bias"])
def test_a_model_in_int8_is_the_float_model_of_the_rounded_weights(name: str) -> None:
    model = quantized_family(name)
    tokens, valid = padded_batch(80)
    expected = our_logits(rounded_as_float(model), tokens, valid)
    actual = our_logits(model, tokens, valid)
    # Measured 2.9e-6.
    np.testing.assert_allclose(actual[valid], expected[valid], atol=5e-6, rtol=0)
    float_logits = our_logits(family(name)[1], tokens, valid)
    assert 1e-3 < np.abs(actual - float_logits)[valid].max() < 0.1 * np.abs(float_logits).max()


def test_scanned_layers_give_what_unrolled_ones_give() -> None:
    model = quantized_family("no-attention-bias")
    tokens, valid = padded_batch(80)
    np.testing.assert_allclose(
        our_logits(stack_layers(model), tokens, valid),
        our_logits(model, tokens, valid),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["pythia-70m", "line-3.6b"])
def test_all_but_the_linears_stays_float(name: str) -> None:
    model = quantized_family(name)
    kinds = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
    }
    in_int8 = {path for path, dtype in kinds.items() if dtype == jnp.int8}
    within = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h")
    parts = [*within, "mlp.dense_4h_to_h"]
    expected = {f"layers.{layer}.{part}.weight" for layer in range(2) for part in parts}
    tied = model.config.tie_word_embeddings
    assert in_int8 == expected | (set() if tied else {"embed_out.weight"})
    assert all(dtype == jnp.float32 for path, dtype in kinds.items() if path not in in_int8)
    assert is_quantized(model) and not is_quantized(family(name)[1])
    assert model.dtype == jnp.float32
