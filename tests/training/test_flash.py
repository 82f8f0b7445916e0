"""The TPU kernel, run by Pallas' interpreter, attends as the plain mask does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType

from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.kernels.flash import Flash
from neox_eqx.model.keys_values import KV
from neox_eqx.model.visible import Visible

ROWS, HEADS, LENGTH = 2, 2, 256
# Measured 2e-6 of values around 1, and of gradients around 3.
TOLERANCE = 1e-5


def attended(size: int, way: Flash | Dense) -> tuple[np.ndarray, list[np.ndarray]]:
    """What is attended to at random, and its gradients by queries, keys and values."""
    random = np.random.default_rng(0)
    shape = (ROWS, HEADS, LENGTH, size)
    query, key, value, weight = (
        jnp.asarray(random.standard_normal(shape), jnp.float32) for _ in range(4)
    )
    # The result at padding is nobody's.
    weight = jnp.where(documents()[:, None, :, None] > 0, weight, 0)

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = way.attend(query, (KV(key, value),)) * weight
        return output.sum(), output

    with pltpu.force_tpu_interpret_mode():
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (_, output), gradients = step(query, key, value)
    return np.asarray(output), [np.asarray(gradient) for gradient in gradients]


def documents() -> jax.Array:
    """Two documents and padding in the first row, one document in the second."""
    ids = np.ones((ROWS, LENGTH), np.int32)
    ids[0, 100:190], ids[0, 190:] = 2, 0
    return jnp.asarray(ids)


def dense() -> Dense:
    return Dense(Visible(documents(), packed=True).mask())


@pytest.mark.parametrize("size", [64, 96])
def test_the_kernel_attends_within_documents(size: int) -> None:
    output, gradients = attended(size, Flash(documents(), None))
    expected, expected_gradients = attended(size, dense())
    np.testing.assert_allclose(output, expected, atol=TOLERANCE)
    for ours, plain in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, plain, atol=TOLERANCE)
    other, _ = attended(size, Flash(jnp.ones_like(documents()), None))
    assert np.abs(other - expected).max() > 100 * TOLERANCE  # control


def test_on_a_mesh_each_device_runs_the_kernel_on_its_rows_and_heads() -> None:
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    output, gradients = attended(64, Flash(documents(), mesh))
    expected, expected_gradients = attended(64, dense())
    np.testing.assert_allclose(output, expected, atol=TOLERANCE)
    for ours, plain in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, plain, atol=TOLERANCE)
