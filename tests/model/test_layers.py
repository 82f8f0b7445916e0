"""Layers and activations against torch's, one at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from neox_eqx.config import ACTIVATIONS
from neox_eqx.model.activations import activate
from neox_eqx.model.embedding import Embedding
from neox_eqx.model.kernels.any import FEW_ROWS
from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.keys_values import KV
from neox_eqx.model.linear import Linear
from neox_eqx.model.norm import LayerNorm
from tests.hf_models import to_array

HALF = ["bfloat16", "float16"]


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator)


@pytest.mark.typed
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str) -> None:
    x = torch.linspace(-12, 12, 4001)
    actual = activate(name, to_array(x))
    np.testing.assert_allclose(actual, ACT2FN[name](x).numpy(), atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_half_precision_are_the_float32_ones_rounded_once(
    name: str, dtype: str
) -> None:
    x = torch.linspace(-6, 6, 4001).to(getattr(torch, dtype))
    actual = activate(name, to_array(x))
    assert actual.dtype == dtype
    exact = ACT2FN[name](x.double()).numpy()
    eps = float(jnp.finfo(dtype).eps)
    # A hundredth beside the half unit in the last place of one rounding, for float32's own.
    np.testing.assert_allclose(np.asarray(actual, np.float64), exact, rtol=0.51 * eps, atol=1e-6)


def test_exact_and_tanh_gelu_are_told_apart() -> None:
    x = jnp.linspace(-3, 3, 101)
    assert jnp.abs(activate("gelu", x) - activate("gelu_new", x)).max() > 2e-4


# A common offset of 10 is rounded in steps of 9.5e-7, which the weights multiply by up to 3.5:
# measured 8.8e-6 between ours and torch's, and 9.5e-7 without the offset.
@pytest.mark.parametrize(("offset", "atol"), [(0, 2e-6), (10, 1e-5)])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_layer_norm_is_that_of_torch(dtype: str, eps: float, offset: float, atol: float) -> None:
    theirs = torch.nn.LayerNorm(48, eps=eps).to(getattr(torch, dtype))
    x = (normal(5, 7, 48) + offset).to(getattr(torch, dtype))
    with torch.no_grad():
        theirs.weight.copy_(1 + normal(48, seed=1))
        theirs.bias.copy_(normal(48, seed=2))
        expected = theirs(x).float().numpy()
    actual = LayerNorm(to_array(theirs.weight), to_array(theirs.bias), eps)(to_array(x))
    assert actual.dtype == dtype
    # In half precision the two may round to neighbouring numbers.
    unit = 0 if dtype == "float32" else float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(actual, np.float32), expected, rtol=unit, atol=atol)


def test_layer_norm_of_a_constant_row_is_its_bias() -> None:
    norm = LayerNorm(jnp.full(8, 3.0), jnp.arange(8.0), 1e-5)
    np.testing.assert_array_equal(norm(jnp.full((2, 8), 7.0)), np.tile(np.arange(8.0), (2, 1)))


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1])
def test_linear_is_that_of_torch(dtype: str, bias: bool, rows: int) -> None:
    theirs = torch.nn.Linear(24, 40, bias=bias).to(getattr(torch, dtype))
    x = normal(rows, 1, 24).to(getattr(torch, dtype))
    linear = Linear(
        to_array(theirs.weight), to_array(theirs.bias) if bias else None, ("mlp", "embed")
    )
    actual = linear(to_array(x))
    assert actual.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    expected = theirs(x).detach().float().numpy()
    np.testing.assert_allclose(np.asarray(actual, np.float32), expected, rtol=eps, atol=4 * eps)


def test_embedding_gives_the_rows_of_the_weight() -> None:
    weight = jnp.arange(12.0).reshape(6, 2)
    rows = Embedding(weight)(jnp.array([[5, 0], [2, 2]]))
    np.testing.assert_array_equal(rows, [[[10, 11], [0, 1]], [[4, 5], [4, 5]]])


@pytest.mark.typed
def test_attention_over_segments_is_that_of_torch_over_their_concatenation() -> None:
    sizes = (4, 9, 9)
    query, key, value = (normal(2, 3, size, 8, seed=seed) for seed, size in enumerate(sizes))
    mask = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(3)) < 0.6
    mask[:, :, 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask[:, None]
    )
    segments = tuple(
        KV(to_array(key[:, :, part]), to_array(value[:, :, part]))
        for part in (slice(0, 2), slice(2, 5), slice(5, 9))
    )
    actual = Dense(jnp.asarray(mask.numpy())).attend(to_array(query), segments)
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-6)
