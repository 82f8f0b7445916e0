"""Keys and values of tokens: how they are kept, and how attention reads them."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from neox_eqx.model.heads import apart, beside_tokens, narrow, side_by_side, widen

_MANY_QUERIES = 64


class KeysValues(eqx.Module):
    """One way to keep keys and values of a layer is one class.

    All its arrays have the axes (B, G, S, X): rows, groups of heads, slots, and whatever
    the class keeps of a slot; where layers are stacked, a layer axis before them. So slots are
    written, padded and taken in the same way for every class. Empty slots are zeros.
    """

    @classmethod
    @abc.abstractmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "KeysValues":
        """Keeps keys, which are rotated already, and values, with `together` heads in a group."""

    @abc.abstractmethod
    def scores(self, query: Float[Array, "B H T K"]) -> Float[Array, "B H T S"]:
        """q kᵀ, not scaled. Where there are b < B rows of keys, each serves B / b neighbours."""

    @abc.abstractmethod
    def mix(self, weights: Float[Array, "B H T S"], size: int) -> Float32[Array, "B H T K"]:
        """The sum of the values, each times its weight; `size` is that of a head, K.

        In float32, so that a sum over several of these is rounded once.
        """

    def for_library(self, size: int) -> tuple[Array, ...] | None:
        """The arrays as `native.attention` takes them for heads of `size`; None if it does not."""
        return None


class KV(KeysValues):
    """Keys and values in the dtype of the computation. With one head a group, G is H and C is K."""

    key: Float[Array, "*L B G S C"]
    value: Float[Array, "*L B G S C"]

    @classmethod
    def of(
        cls, key: Float[Array, "B H S K"], value: Float[Array, "B H S K"], together: int
    ) -> "KV":
        return cls(side_by_side(key, together), side_by_side(value, together))

    def scores(self, query: Float[Array, "B H T K"]) -> Float[Array, "B H T S"]:
        return scores(query, self.key)

    def mix(self, weights: Float[Array, "B H T S"], size: int) -> Float32[Array, "B H T K"]:
        return mix(weights, self.value, size)

    def for_library(self, size: int) -> tuple[Array, ...] | None:
        return (self.key, self.value) if self.key.shape[-1] == size else None


def scores(query: Float[Array, "B H T K"], key: Float[Array, "b G S C"]) -> Float[Array, "B H T S"]:
    """q kᵀ for each head."""
    wide = widen(query, key.shape[-1])
    shared = beside_tokens(wide, len(key))
    dims = (((3,), (3,)), ((0, 1), (0, 1)))
    # The order is for XLA's CPU backend, which copies few queries' keys, or many queries' scores.
    if shared.shape[2] >= _MANY_QUERIES:
        product = lax.dot_general(shared, key, dims, precision=lax.Precision.HIGHEST)
    else:
        product = lax.dot_general(key, shared, dims, precision=lax.Precision.HIGHEST).swapaxes(2, 3)
    return apart(product, wide.shape).reshape(*query.shape[:3], -1)


def mix(
    weights: Float[Array, "B H T S"], value: Float[Array, "b G S C"], size: int
) -> Float32[Array, "B H T K"]:
    """The values of each head, summed with their weights."""
    batch, heads, _, slots = weights.shape
    wide = weights.reshape(batch, value.shape[1], -1, slots)
    product = lax.dot_general(
        beside_tokens(wide, len(value)),
        value,
        (((3,), (2,)), ((0, 1), (0, 1))),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return narrow(apart(product, wide.shape), heads, size)
