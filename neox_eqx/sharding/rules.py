"""From the logical axes of an array to its place on the mesh."""

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Tables from a logical axis to the mesh's; along an axis that is not in one an array is whole.
RULES = {
    "batch": "data",
    "rows": "data",
    "heads": "model",  # of the fused query, key and value too, whose rows are ordered by head
    "mlp": "model",
    "vocab": "model",
}
# For many devices: weights are split both ways and stay where they are, and the residual stream
# is split by its dims ("batch" and "embed") where attention is by rows of the batch ("rows").
# Pope et al. 2022, arXiv:2211.05102, call it 2D weight-stationary.
RULES_2D = {"rows": "data", "embed": "data", "heads": "model", "mlp": "model", "vocab": "model"}
LAYOUTS = {"1d": RULES, "2d": RULES_2D}
# In training a parameter, its gradient and its moments are split along the data axis too, and the
# parameter is gathered while its layer needs it.
TRAINING_RULES = RULES | {"embed": "data"}

Tree = TypeVar("Tree")
Axes = tuple[str | None, ...]


class Placed(eqx.Module):
    """A layer with parameters, which says where they lie.

    Its field `axes` has the logical axis of each dimension of its weight.
    """

    def axes_of(self, name: str) -> Axes:
        """Those of the parameter with this name. A bias is as long as the weight has rows."""
        axes: Axes = self.axes  # type: ignore[attr-defined]
        return axes[:1] if name == "bias" else axes


def sharding(
    mesh: Mesh, shape: tuple[int, ...], axes: Axes, rules: Mapping[str, str] = RULES
) -> NamedSharding:
    """The sharding of an array whose last dimensions have these axes; those before are whole.

    A dimension that its mesh axis does not divide is whole too, as a vocabulary of 50,277 may be.
    """
    names: list[str | None] = [None] * (len(shape) - len(axes))
    for size, axis in zip(shape[len(names) :], axes, strict=True):
        name = rules.get(axis) if axis else None
        names.append(name if name and size % mesh.shape[name] == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*names))


def constrain(
    x: jax.Array, mesh: Mesh | None, *axes: str | None, rules: Mapping[str, str] = RULES
) -> jax.Array:
    """`x`, which the compiler then keeps where `axes` say; without a mesh, just `x`."""
    if mesh is None:
        return x
    return lax.with_sharding_constraint(x, sharding(mesh, x.shape, axes, rules))


def platform_of(mesh: Mesh | None) -> str:
    """ "cpu", "gpu" or "tpu": of the mesh's devices, or of JAX's default."""
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def parameter_shardings(model: Tree, mesh: Mesh, rules: Mapping[str, str] = RULES) -> Tree:
    """The tree of a model with a NamedSharding in place of each of its arrays.

    An array that is not of a `Placed` layer is whole on every device.
    """

    def of_layer(layer: Any) -> Any:
        def of_parameter(path: tuple[Any, ...], array: Any) -> NamedSharding:
            axes = layer.axes_of(path[-1].name) if isinstance(layer, Placed) else ()
            return sharding(mesh, array.shape, axes, rules)

        return jax.tree_util.tree_map_with_path(of_parameter, layer)

    return jax.tree.map(of_layer, model, is_leaf=lambda node: isinstance(node, Placed))
