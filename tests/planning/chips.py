"""Arguments of planted programs: arrays without contents, placed on chips that nobody has."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import shard_map
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

P = PartitionSpec
EVERYWHERE = P()
BF16, F32, S8, S32 = jnp.bfloat16, jnp.float32, jnp.int8, jnp.int32

Planted = tuple[Callable, list[jax.ShapeDtypeStruct], tuple[int, ...]]
"""A function to compile, its arguments, and the numbers of those that it may overwrite."""


def on(
    mesh: Mesh, *shape: int, dtype=BF16, spec=EVERYWHERE, order=None, memory=None
) -> jax.ShapeDtypeStruct:
    """An argument on `mesh`; with an `order`, laid out so, from the outermost dimension."""
    sharding = NamedSharding(mesh, spec, memory_kind=memory)
    place = sharding if order is None else Format(Layout(order), sharding)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def alone(mesh: Mesh) -> Mesh:
    """The first chip of a mesh."""
    return Mesh(mesh.devices.flat[:1], ("x",))


def square(mesh: Mesh) -> Mesh:
    """Four chips as two by two."""
    return Mesh(mesh.devices.reshape(2, 2), ("data", "model"))


def spread(mesh: Mesh, f: Callable, inputs, output) -> Callable:
    return shard_map(f, mesh=mesh, in_specs=inputs, out_specs=output, check_vma=False)
