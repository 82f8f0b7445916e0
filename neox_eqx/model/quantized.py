"""Linears whose weight is in few bits: what each form of such a weight has to say of itself."""

import abc
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neox_eqx.model.linear import Linear

Numbers = TypeVar("Numbers", np.ndarray, jax.Array)


class QuantizedLinear(Linear):
    """One form is one class, with a name, the arrays of a weight, and a product with them.

    Its fields are `weight`, `bias`, `axes` and whatever else `encode` returns. What loads a model,
    places it on a mesh, plans it or counts its bytes goes by these arrays and asks nothing else.
    """

    name: ClassVar[str]
    """What `load(quantize=...)` calls it."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        """The arrays that stand for a float32 weight (..., out, in), each under its field's name.

        Each has the weight's axes up to out, and a row of it depends on that row alone: a
        checkpoint is read in blocks of rows. NumPy's arrays give NumPy's, and JAX's give JAX's.
        """

    @abc.abstractmethod
    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype, with the weight that the arrays stand for."""

    @classmethod
    def of(cls, linear: Linear) -> "QuantizedLinear":
        """The same layer with its weight in this form."""
        arrays = cls.encode(linear.weight.astype(jnp.float32))
        return cls(bias=linear.bias, axes=linear.axes, **arrays)
