"""Linears whose weight is in few bits: what a form must define."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from neox_eqx.model.linear import Linear

Numbers = TypeVar("Numbers", np.ndarray, jax.Array)
Tree = TypeVar("Tree")


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
    largest: ClassVar[float] = math.inf
    """The largest absolute value that it has; what is larger is refused."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        """The arrays that stand for a float32 weight (..., out, in), each under its field's name.

        Each begins with the axes (..., out / `rows_together`, rounded up), and what an entry has
        depends on its own rows of the weight alone: a checkpoint is read in blocks of rows. NumPy
        gives NumPy, JAX gives JAX.
        """

    @classmethod
    @abc.abstractmethod
    def values(cls, arrays: dict[str, Numbers]) -> Numbers:
        """The float32 weight that arrays of `encode` stand for, with what filled them up."""

    @classmethod
    def to_file(cls, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays that `encode` gave for a weight (out, in), as they lie in a file.

        A file has in each array an entry for every row, the same on all machines. After those of
        the weight there may be entries of the rows that `encode` added.
        """
        return arrays

    @classmethod
    def from_file(cls, stored: dict[str, np.ndarray], columns: int) -> dict[str, np.ndarray]:
        """The arrays of some rows as `encode` gives them, from what `to_file` made of these.

        Each row has zeros after it up to `columns` numbers.
        """
        zeros = cls.encode(np.zeros((1, columns), np.float32))
        return {name: _before(array, zeros[name]) for name, array in stored.items()}

    @abc.abstractmethod
    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype, with the weight that the arrays stand for."""

    @classmethod
    def of(cls, linear: Linear) -> "QuantizedLinear":
        """The same layer with its weight in this form."""
        arrays = cls.encode(linear.weight.astype(jnp.float32))
        return cls(bias=linear.bias, axes=linear.axes, **arrays)

    def dense(self) -> Float32[Array, "*L out in"]:
        """The weight that the arrays stand for."""
        whole = self.values({name: getattr(self, name) for name in self.arrays()})
        return whole[..., : self.shape[-2], : self.shape[-1]]

    @classmethod
    def arrays(cls) -> list[str]:
        """The names of the fields that `encode` gives."""
        fields = [field for field in dataclasses.fields(cls) if not field.metadata.get("static")]
        return [field.name for field in fields if field.name != "bias"]


def cast(tree: Tree, dtype: jax.typing.DTypeLike) -> Tree:
    """The tree of a model with its numbers in `dtype`; codes and scales stay as they are."""

    def of_array(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        return array.astype(dtype) if path[-1].name == "bias" else array

    def of_node(node: Any) -> Any:
        if isinstance(node, QuantizedLinear):
            return jax.tree_util.tree_map_with_path(of_array, node)
        return node.astype(dtype)

    return jax.tree.map(of_node, tree, is_leaf=lambda node: isinstance(node, QuantizedLinear))


def _before(array: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The array with longer entries: what each lacks is taken from a `row` of zeros."""
    if array.shape[1:] == row.shape[1:]:
        return array
    whole = np.repeat(row, len(array), axis=0)
    whole[tuple(map(slice, array.shape))] = array
    return whole
