"""Attention in blocks of queries and slots, which never holds the scores of all pairs.

A block of queries goes through the blocks of slots that it sees with an online softmax (Milakov and
Gimelshein 2018, arXiv:1805.02867). What is above the diagonal, or after the last slot that any row
sees, is not computed. A backward pass computes each block's weights again instead of keeping them
(FlashAttention, Dao et al. 2022, arXiv:2205.14135).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.visible import Visible

BLOCK = 256
"""Queries, and slots, of a block: of 128, 256 and 512 the fastest on two x86 cores."""
_LOWEST = float(jnp.finfo(jnp.float32).min)

Query = Float[Array, "B H T K"]
Segments = tuple[KeysValues, ...]
Sums = Float32[Array, "B H T"]


class Blocks(eqx.Module):
    visible: Visible

    @staticmethod
    def fits(length: int, platform: str) -> bool:
        """Whether so many new tokens attend in this way. For fewer, all scores at once are as
        fast; and what the compiler for TPUs makes of the loops was not seen."""
        return platform != "tpu" and length > BLOCK

    def attend(self, query: Query, segments: Segments) -> Query:
        """softmax(q kᵀ / sqrt(K)) v over the slots of all segments."""
        length = query.shape[2]
        query, segments = jax.tree.map(_whole_blocks, (query, segments))
        return _attend(query, segments, self.visible.pad(BLOCK))[:, :, :length]


class _Sums(eqx.Module):
    """A softmax over the slots so far: all weights are relative to that of the largest score."""

    largest: Sums
    weights: Sums
    values: Float32[Array, "B H T K"]

    @classmethod
    def empty(cls, query: Query) -> "_Sums":
        zeros = jnp.zeros(query.shape, jnp.float32)
        return cls(zeros[..., 0] + _LOWEST, zeros[..., 0], zeros)

    def add(self, scores: Float32[Array, "B H T S"], kv: KeysValues, dtype: Any) -> "_Sums":
        largest = jnp.maximum(self.largest, scores.max(-1))
        shrink = jnp.exp(self.largest - largest)
        weights = jnp.exp(scores - largest[..., None])
        mixed = kv.mix(weights.astype(dtype), self.values.shape[-1])
        return _Sums(
            largest,
            self.weights * shrink + weights.sum(-1),
            self.values * shrink[..., None] + mixed,
        )


@jax.custom_vjp
def _attend(query: Query, segments: Segments, visible: Visible) -> Query:
    return _forward(query, segments, visible)[0]


def _forward(query: Query, segments: Segments, visible: Visible) -> tuple[Query, Any]:
    """The result, and what a backward pass needs."""

    def of_block(at: Int[Array, ""]) -> tuple[Query, Sums]:
        own = _take(query, at)

        def add(sums: _Sums, kv: KeysValues, which: int, slots: Int[Array, ""]) -> _Sums:
            return sums.add(_scores(own, kv, visible, which, at, slots), kv, query.dtype)

        sums = _fold(add, _Sums.empty(own), segments, visible, at)
        output = sums.values / sums.weights[..., None]
        return output.astype(query.dtype), sums.largest + jnp.log(sums.weights)

    output, log_sum = lax.map(of_block, jnp.arange(query.shape[2] // BLOCK))
    output, log_sum = _join(output), _join(log_sum[..., None])
    return output, (query, segments, visible, output, log_sum)


def _backward(kept: Any, gradient: Query) -> tuple[Query, Any, None]:
    """The result is a sum of values with the weights w = exp(score - log_sum).

    Block by block that is a plain function. log_sum depends on the scores too: it adds to the
    gradient by each w what is common to a query's slots.
    """
    query, segments, visible, output, log_sum = kept
    gradient = gradient.astype(jnp.float32)
    common = (gradient * output).sum(-1, keepdims=True)

    def of_block(by_segments: Any, at: Int[Array, ""]) -> tuple[Any, Query]:
        own, own_sum = _take(query, at), _take(log_sum, at)
        cotangents = _take(gradient, at), -_take(common, at)[..., 0]

        def add(by: Any, kv: KeysValues, which: int, slots: Int[Array, ""]) -> Any:
            def mixed(own: Query, kv: KeysValues) -> tuple[Float32[Array, "B H T K"], Sums]:
                weights = jnp.exp(_scores(own, kv, visible, which, at, slots) - own_sum)
                return kv.mix(weights.astype(query.dtype), query.shape[-1]), weights.sum(-1)

            by_own, by_kv = eqx.filter_vjp(mixed, own, kv)[1](cotangents)
            by_segments = list(by[1])
            by_segments[which] = _add(by_segments[which], by_kv, slots)
            return by[0] + by_own, tuple(by_segments)

        start = jnp.zeros(own.shape), by_segments
        by_own, by_segments = _fold(add, start, segments, visible, at)
        return by_segments, by_own

    floats = eqx.filter(segments, eqx.is_inexact_array)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), floats)
    by_segments, by_query = lax.scan(of_block, zeros, jnp.arange(query.shape[2] // BLOCK))
    by_segments = jax.tree.map(lambda by, x: by.astype(x.dtype), by_segments, floats)
    return _join(by_query).astype(query.dtype), by_segments, None


_attend.defvjp(_forward, _backward)


def _fold(
    add: Callable[[Any, KeysValues, int, Int[Array, ""]], Any],
    start: Any,
    segments: Segments,
    visible: Visible,
    at: Int[Array, ""],
) -> Any:
    """`start` with each block of slots added that the block of queries `at` sees."""
    for which, kv in enumerate(segments):
        is_new = which == len(segments) - 1
        stop = at + 1 if is_new else -(-visible.end(which) // BLOCK)

        def step(slots: Int[Array, ""], sums: Any, kv: Any = kv, which: int = which) -> Any:
            return add(sums, _take(kv, slots), which, slots)

        start = lax.fori_loop(0, stop, step, start)
    return start


def _scores(
    query: Query,
    kv: KeysValues,
    visible: Visible,
    which: int,
    at: Int[Array, ""],
    slots: Int[Array, ""],
) -> Float32[Array, "B H T S"]:
    """Of a block of queries and one of slots; the lowest number where it does not attend."""
    scores = kv.scores(query).astype(jnp.float32) * query.shape[-1] ** -0.5
    seen = visible.of_block(which, at, slots, BLOCK)
    return jnp.where(seen[:, None], scores, _LOWEST)


def _whole_blocks(x: Array) -> Array:
    """Padded along the tokens or slots."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % BLOCK), (0, 0)))


def _take(tree: Any, at: Int[Array, ""]) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, at * BLOCK, BLOCK, axis=2), tree)


def _add(total: Any, block: Any, at: Int[Array, ""]) -> Any:
    def add(total: Array, new: Array) -> Array:
        old = _take(total, at)
        return lax.dynamic_update_slice_in_dim(total, old + new, at * BLOCK, axis=2)

    return jax.tree.map(add, total, block)


def _join(blocks: Float[Array, "n B H t X"]) -> Float[Array, "B H T X"]:
    rows, heads = blocks.shape[1:3]
    return jnp.moveaxis(blocks, 0, 2).reshape(rows, heads, -1, blocks.shape[-1])
