"""The one loop over a model's layers: for inference and training, unrolled and scanned."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from neox_eqx.model.block import Block
from neox_eqx.model.context import Context
from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.segment import Segment

Layers = tuple[Block, ...] | Block
"""A Block for each layer, or one Block whose arrays have a leading layer axis."""
Stream = Float[Array, "B T D"]


def run_layers(
    layers: Layers,
    x: Stream,
    past: Sequence[Segment],
    context: Context,
    *,
    keep: Callable[[Any], Any],
    prepare: Callable[[Block, Context], Block] | None = None,
    remat: bool = False,
) -> tuple[Stream, Any]:
    """`x` after all layers, and what `keep` makes of each layer's new keys and values.

    That is a tuple, or a tree with a leading layer axis, as `layers` are. The layers read the past
    and never write it: a write inside a scan would copy the whole cache. `prepare`
    changes a layer just before it computes. With `remat` a backward pass computes each layer again
    instead of keeping what is inside.
    """

    def run(
        x: Stream, block: Block, past: tuple[KeysValues, ...], index: Any
    ) -> tuple[Stream, Any]:
        own = context.layer(index)
        with jax.named_scope("layer"):
            x, new = (prepare(block, own) if prepare else block)(x, past, own)
        return context.place(x, "batch", None, "embed"), keep(new)

    if remat:
        run = jax.checkpoint(run)
    if isinstance(layers, tuple):
        return _unrolled(run, layers, x, past)
    return _scanned(run, layers, x, past, numbered=context.dropout is not None)


def _unrolled(
    run: Callable[..., tuple[Stream, Any]],
    layers: tuple[Block, ...],
    x: Stream,
    past: Sequence[Segment],
) -> tuple[Stream, tuple[Any, ...]]:
    """Fastest on a CPU."""
    kept = []
    is_traced = isinstance(x, jax.core.Tracer)
    if is_traced:
        # Traced once for all layers, which XLA then lays out one by one. Not by jax.jit: a module
        # that replaced one of ours may have functions among its leaves.
        run = eqx.filter_jit(run)
    for index, block in enumerate(layers):
        # As an array, whose value is nothing to trace anew for.
        number = np.asarray(index) if is_traced else index
        x, new = run(x, block, tuple(segment.layer(index) for segment in past), number)
        kept.append(new)
    return x, tuple(kept)


def _scanned(
    run: Callable[..., tuple[Stream, Any]],
    layers: Block,
    x: Stream,
    past: Sequence[Segment],
    *,
    numbered: bool,
) -> tuple[Stream, Any]:
    """Compiles one layer, for any depth."""
    past_kv: Any = tuple(segment.kv for segment in past)  # with a layer axis, as the layers
    depth = len(jax.tree.leaves(layers)[0])
    numbers = jnp.arange(depth) if numbered else None
    return lax.scan(lambda x, layer: run(x, *layer), x, (layers, past_kv, numbers))


def stack(blocks: Sequence[Block]) -> Block:
    """One Block whose arrays have a leading layer axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
