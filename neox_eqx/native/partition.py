"""Where the library's products are computed on a mesh: where the weight lies."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32

MeshAxes = str | tuple[str, ...] | None
Product = Callable[..., Float32[Array, "M N"]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the axes of x (M, K), a weight's arrays and y (M, N) belong together."""

    text: str
    """As in einsum; see jax.experimental.custom_partitioning."""
    summed: tuple[str, ...]
    """The letters of what is summed."""
    specs: Callable[[MeshAxes, MeshAxes], tuple[PartitionSpec, ...]]
    """Those of a weight's arrays, whose N and K are along these axes of the mesh."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Of the letters that only stand beside others."""


def partitioned(product: Product, rule: Rule) -> Product:
    """`product(x, *weight)` that leaves a weight where it is.

    Along N, each device computes its own columns of y; along K, sums are added over devices.
    """

    def partition(mesh: Mesh, arguments: tuple[Any, ...], result: Any) -> tuple[Any, ...]:
        del result
        spec = arguments[1].sharding.spec
        n, k = _one(spec[0]), _one(spec[1])
        if k and arguments[-1].shape[1:2] and arguments[-1].shape[1] % _size(mesh, k):
            k = None  # a group of tiles would be split
        taken = {*_names(n), *_names(k)}
        m = _one(arguments[0].sharding.spec[0])
        m = None if taken & {*_names(m)} else m

        def on_device(*own: jax.Array) -> jax.Array:
            y = product(*own)
            return lax.psum(y, _names(k)) if k else y

        specs = (PartitionSpec(m, k), *rule.specs(n, k))
        operands = tuple(NamedSharding(mesh, own) for own in specs)
        return mesh, on_device, NamedSharding(mesh, PartitionSpec(m, n)), operands

    # JAX binds arguments by the signature, which no *args must have.
    def two(x, weight):
        return product(x, weight)

    def three(x, weight, scale):
        return product(x, weight, scale)

    split = custom_partitioning(two if len(rule.specs(None, None)) == 1 else three)
    split.def_partition(
        partition,
        sharding_rule=rule.text,
        reduction_factors=rule.summed,
        **dict(rule.sizes),
    )
    return split


def _names(axes: MeshAxes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _one(axes: MeshAxes) -> MeshAxes:
    return axes or None


def _size(mesh: Mesh, axes: MeshAxes) -> int:
    size = 1
    for name in _names(axes):
        size *= mesh.shape[name]
    return size
