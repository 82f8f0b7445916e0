"""The library's products under grad, vmap, scan and remat."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from neox_eqx.native import products, tiles
from tests.native.weights import FORMS, normal, rounded, weight


def in_jax(form: str) -> Callable[..., Any]:
    """x Wᵀ by XLA, of the arrays of a form."""

    def product(x: jax.Array, *arrays: jax.Array) -> jax.Array:
        if "tiles" in form:
            wide = tiles.untiled(*arrays)
        elif form == "int8":
            wide = arrays[0].astype(jnp.float32) * arrays[1][:, None]
        else:
            wide = arrays[0].astype(jnp.float32)
        return x @ wide.T

    return product


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_weight_in_float32(
    instruction_sets: list[str], form: str
) -> None:
    own = weight(form, 48, 64)
    x, out = jnp.asarray(normal(3, 2, 64)), jnp.asarray(normal(3, 2, 48, seed=2))
    floats = [
        n for n, array in enumerate((x, *own.arrays)) if jnp.issubdtype(array.dtype, jnp.floating)
    ]

    def gradients(product: Callable[..., Any]) -> Any:
        loss = lambda *arrays: (product(*arrays) * out).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, floats))(x, *own.arrays)

    for one, other in zip(gradients(own.product), gradients(in_jax(form)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients_are_there(instruction_sets: list[str]) -> None:
    own = weight("float16", 16, 16)
    loss = lambda x: (own.product(x, *own.arrays) ** 2).sum()  # noqa: E731
    twice = jax.grad(lambda x: jax.grad(loss)(x)[0, 0])(jnp.ones((1, 16)))
    np.testing.assert_allclose(twice[0], 2 * own.exact.T @ own.exact[:, 0], rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_vmap_takes_a_batch_of_x_as_rows(instruction_sets: list[str], form: str) -> None:
    own = weight(form, 40, 70)
    x = jnp.asarray(normal(3, 2, 70))
    of_rows = jax.vmap(
        jax.vmap(own.product, (0, *[None] * len(own.arrays))), (0, *[None] * len(own.arrays))
    )
    text = jax.jit(of_rows).lower(x, *own.arrays).as_text()
    assert text.count("@neox_eqx_product") == 1 and "while" not in text
    np.testing.assert_array_equal(of_rows(x, *own.arrays), own(x))


@pytest.mark.parametrize("form", ["bfloat16", "tiles4"])
@pytest.mark.parametrize("with_x", [True, False])
def test_vmap_over_weights_gives_the_product_of_each(
    instruction_sets: list[str], form: str, with_x: bool
) -> None:
    several = [weight(form, 24, 64, seed) for seed in range(3)]
    stacked = [jnp.stack(arrays) for arrays in zip(*(own.arrays for own in several), strict=True)]
    x = jnp.asarray(normal(3, 4, 64)) if with_x else jnp.asarray(normal(4, 64))
    y = jax.jit(jax.vmap(several[0].product, (0 if with_x else None, *[0] * len(stacked))))(
        x, *stacked
    )
    for number, own in enumerate(several):
        np.testing.assert_array_equal(y[number], own(x[number] if with_x else x))


def test_scan_over_stacked_weights_gives_the_bits_of_a_loop(instruction_sets: list[str]) -> None:
    several = [weight("int8", 64, 64, seed) for seed in range(3)]
    stacked = tuple(
        jnp.stack(arrays) for arrays in zip(*(own.arrays for own in several), strict=True)
    )
    x = jnp.asarray(normal(2, 64))
    scanned, _ = jax.jit(
        lambda x, stacked: lax.scan(lambda y, own: (products.dot_int8(y, *own), None), x, stacked)
    )(x, stacked)
    for own in several:
        x = own(x)
    np.testing.assert_array_equal(scanned, x)


def test_remat_changes_no_gradient(instruction_sets: list[str]) -> None:
    own = weight("bfloat16", 32, 32)
    loss = lambda x: (own.product(x, *own.arrays) ** 2).sum()  # noqa: E731
    x = jnp.asarray(normal(2, 32))
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(x)
    np.testing.assert_array_equal(again, jax.jit(jax.grad(loss))(x))


def test_rounded_x_is_what_the_tests_take_it_for() -> None:
    x = np.array([[127, 0.5, 1.5, 2.6, *[0] * 28, 3.0]], np.float32)
    np.testing.assert_array_equal(rounded(x)[0, :4], [127, 0, 2, 3])
    np.testing.assert_allclose(rounded(x)[0, 32], 3, rtol=1e-7)
