"""The activations of GPT-NeoX checkpoints, under transformers' names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def activate(name: str, x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """Applies the activation that config.json calls `name`, computed in float32."""
    return _ACTIVATIONS[name](x.astype(jnp.float32)).astype(x.dtype)


def _gelu_exact(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def _gelu_tanh(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    # One formula for gelu_new, gelu_pytorch_tanh and gelu_fast: the latter's constant
    # 0.7978845608 is sqrt(2/pi) to within float32.
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _quick_gelu(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Float[Array, "*B F"]], Float[Array, "*B F"]]] = {
    "gelu": _gelu_exact,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "quick_gelu": _quick_gelu,
}
