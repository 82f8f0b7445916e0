"""From the logical axes of an array to its place on the mesh."""

from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The one table. An axis that is not in it is whole on every device.
RULES = {
    "rows": "data",
    "heads": "model",  # of the fused query, key and value too, whose rows are ordered by head
    "mlp": "model",
    "vocab": "model",
}

Axes = tuple[str | None, ...]
Tree = TypeVar("Tree")


def sharding(mesh: Mesh, shape: tuple[int, ...], axes: Axes) -> NamedSharding:
    """Where an array lies whose last dimensions have these axes; those before are whole.

    A dimension that its mesh axis does not divide is whole too: a vocabulary of 50,277.
    """
    names: list[str | None] = [None] * (len(shape) - len(axes))
    for size, axis in zip(shape[len(names) :], axes, strict=True):
        name = RULES.get(axis) if axis else None
        names.append(name if name and size % mesh.shape[name] == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*names))


def constrain(x: jax.Array, mesh: Mesh | None, *axes: str | None) -> jax.Array:
    """`x`, which the compiler then keeps where `axes` say; without a mesh, just `x`."""
    return x if mesh is None else lax.with_sharding_constraint(x, sharding(mesh, x.shape, axes))


def parameter_shardings(model: Tree, mesh: Mesh) -> Tree:
    """The tree of a model with a NamedSharding in place of each of its arrays.

    Each layer with parameters has `axes`: the logical axes of its weight, of which the first is
    that of its bias and of its scale.
    """

    def of_layer(layer: Any) -> Any:
        def of_parameter(path: tuple[Any, ...], array: Any) -> NamedSharding:
            axes = layer.axes[:1] if path[-1].name in ("bias", "scale") else layer.axes
            return sharding(mesh, array.shape, axes)

        return jax.tree_util.tree_map_with_path(of_parameter, layer)

    return jax.tree.map(of_layer, model, is_leaf=lambda node: hasattr(node, "axes"))
