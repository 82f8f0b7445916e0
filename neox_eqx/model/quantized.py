"""Linears whose weight is in few bits: what a form must define."""

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

    Its fields are `weight`, `bias`, `axes` and whatever else `encode` returns. Loading,
    placing on a mesh, planning and counting bytes read these arrays alone. A form overrides
    `axes_of` for an array that has not the axes of the weight.
    """

    name: ClassVar[str]
    """What `load(quantize=...)` calls it."""
    rows_together: ClassVar[int] = 1
    """How many rows of the weight one entry of the arrays along their axis of rows stands for."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        """The arrays that stand for a float32 weight (..., out, in), each under its field's name.

        Each begins with the axes (..., out / `rows_together`, rounded up), and what an entry has
        depends on its own rows of the weight alone: a checkpoint is read in blocks of rows. NumPy
        gives NumPy, JAX gives JAX.
        """

    @abc.abstractmethod
    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype, with the weight that the arrays stand for."""

    @classmethod
    def of(cls, linear: Linear) -> "QuantizedLinear":
        """The same layer with its weight in this form."""
        arrays = cls.encode(linear.weight.astype(jnp.float32))
        return cls(bias=linear.bias, axes=linear.axes, **arrays)
