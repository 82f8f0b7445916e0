"""Attention on a CPU by the library of `native`, which keeps a block's scores in a core's cache."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from neox_eqx.model.kernels.blocks import Blocks
from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.visible import Visible
from neox_eqx.native import attention, library
from neox_eqx.sharding.rules import sharding

_LEAST = 64
"""New tokens. So many queries are a block of the library's; for fewer, Dense is as fast."""

Query = Float[Array, "B H T K"]
Segments = tuple[KeysValues, ...]


class Fused(eqx.Module):
    """On a mesh each device computes by itself, with the rows and the heads that it has."""

    visible: Visible
    mesh: Mesh | None = eqx.field(static=True)
    in_jax: Dense | Blocks
    """How gradients are computed, and keys and values that the library has no form for."""

    @staticmethod
    def fits(length: int, platform: str) -> bool:
        """Whether so many new tokens attend in this way."""
        return platform == "cpu" and length >= _LEAST and library.is_available()

    def attend(self, query: Query, segments: Segments) -> Query:
        """softmax(q kᵀ / sqrt(K)) v over the slots of all segments; 0 for what sees nothing."""
        if len(_forms(segments, query)) < len(segments):
            return self.in_jax.attend(query, segments)
        return _attend(self.mesh, query, segments, self.visible, self.in_jax)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    mesh: Mesh | None,
    query: Query,
    segments: Segments,
    visible: Visible,
    in_jax: Dense | Blocks,
) -> Query:
    del in_jax
    *past, new = _forms(segments, query)
    arrays = query, visible.ids, tuple(zip(past, visible.past, strict=True)), new
    if mesh is None:
        return attention.attend(*arrays).astype(query.dtype)
    arrays = jax.tree.map(lambda x: _as_many_rows(x, len(query), mesh), arrays)
    specs = jax.tree.map(partial(_spec, mesh), arrays)
    # check_vma: a call of the library does not tell over which axes its results vary.
    call = jax.shard_map(
        attention.attend, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False
    )
    return call(*arrays).astype(query.dtype)


def _forms(segments: Segments, query: Query) -> list[tuple[Array, ...]]:
    """The arrays of each segment, but not of those that the library has no form for."""
    forms = (kv.for_library(query.shape[-1]) for kv in segments)
    return [form for form in forms if form is not None]


def _as_many_rows(x: Array, rows: int, mesh: Mesh) -> Array:
    """Rows that neighbours in a batch share, repeated where they do not divide over the devices."""
    if len(x) in (1, rows) or len(x) % mesh.shape["data"] == 0:
        return x
    return jnp.repeat(x, rows // len(x), axis=0)


def _spec(mesh: Mesh, x: Array) -> PartitionSpec:
    axes = ("rows", "heads", None, None) if x.ndim == 4 else ("rows", None)
    return sharding(mesh, x.shape, axes).spec


def _forward(
    mesh: Mesh | None,
    query: Query,
    segments: Segments,
    visible: Visible,
    in_jax: Dense | Blocks,
) -> tuple[Query, Any]:
    del mesh, visible
    return jax.vjp(in_jax.attend, query, segments)


def _backward(mesh: Mesh | None, pull: Any, gradient: Query) -> tuple[Query, Any, None, None]:
    del mesh
    return (*pull(gradient), None, None)


_attend.defvjp(_forward, _backward)
