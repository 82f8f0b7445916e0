"""Parameters that are spread over all devices, brought together where they are used.

In training a parameter lies in shards over the mesh's `data` axis too. A layer gathers its own
just before it computes, and its gradient goes back to shards.
"""

from functools import partial
from typing import TypeVar

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Shaped

from neox_eqx.sharding.rules import TRAINING_RULES, parameter_shardings

Layer = TypeVar("Layer")


def gather(layer: Layer, mesh: Mesh | None) -> Layer:
    """`layer` placed as inference has it; its gradient is placed in shards."""
    if mesh is None:
        return layer
    wholes = parameter_shardings(layer, mesh)
    shards = parameter_shardings(layer, mesh, TRAINING_RULES)
    return jax.tree.map(_gather, layer, wholes, shards)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(
    shard: Shaped[Array, "*X"], whole: NamedSharding, shards: NamedSharding
) -> Shaped[Array, "*X"]:
    return lax.with_sharding_constraint(shard, whole)


def _gather_forward(
    shard: Shaped[Array, "*X"], whole: NamedSharding, shards: NamedSharding
) -> tuple[Shaped[Array, "*X"], None]:
    return _gather(shard, whole, shards), None


def _gather_backward(
    whole: NamedSharding, shards: NamedSharding, _: None, gradient: Float[Array, "*X"]
) -> tuple[Float[Array, "*X"]]:
    return (lax.with_sharding_constraint(gradient, shards),)


_gather.defvjp(_gather_forward, _gather_backward)
