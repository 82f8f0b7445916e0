"""Dropout, which only training has."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig


class Dropout(eqx.Module):
    """Zeroes activations at the config's rates and scales up the rest.

    `key` is for one forward pass. `layer` folds the layer's number into it, and each place where
    something is dropped folds in its own.
    """

    key: PRNGKeyArray
    attention: float = eqx.field(static=True)
    hidden: float = eqx.field(static=True)

    @classmethod
    def of(cls, config: GPTNeoXConfig, key: PRNGKeyArray, lora: float = 0.0) -> "Dropout | None":
        """None where neither the config nor `lora`, the rate of LoRA's inputs, drops anything."""
        rates = config.attention_dropout, config.hidden_dropout
        return cls(key, *rates) if any((*rates, lora)) else None

    def layer(self, index: int | Int[Array, ""]) -> "Dropout":
        # 0 is the embedding's.
        return Dropout(jax.random.fold_in(self.key, index + 1), self.attention, self.hidden)

    def drop_attention(self, weights: Float[Array, "*B"]) -> Float[Array, "*B"]:
        return drop(weights, self.attention, jax.random.fold_in(self.key, 0))

    def drop_hidden(self, x: Float[Array, "*B"], place: int) -> Float[Array, "*B"]:
        """`place` tells apart the hidden states that are dropped with the same key."""
        return drop(x, self.hidden, jax.random.fold_in(self.key, 1 + place))

    @property
    def of_lora(self) -> PRNGKeyArray:
        """The key of what is dropped before LoRA's matrices."""
        return jax.random.fold_in(self.key, -1 % 2**32)


def drop(x: Float[Array, "*B"], rate: float, key: PRNGKeyArray) -> Float[Array, "*B"]:
    if rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)
