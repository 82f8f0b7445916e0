"""Rounding the weights of a model to 4 bits with regard to texts that it is to read.

Layer after layer: what enters a layer has gone through those before it as they are rounded.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32
from tqdm import tqdm

from neox_eqx.checkpoint.few_bits import Arrays, StoredWeight
from neox_eqx.checkpoint.load import LoadOptions, load_checkpoint
from neox_eqx.checkpoint.names import HEAD, stored_name
from neox_eqx.checkpoint.rounded import RoundedWeight, check_numbers
from neox_eqx.checkpoint.torch_file import MemoryEntry
from neox_eqx.convert.gptq import round_for_inputs
from neox_eqx.convert.memory import shortage
from neox_eqx.convert.source import Source
from neox_eqx.errors import InputError
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.adapt import TARGETS
from neox_eqx.model.block import Block
from neox_eqx.model.linear import Linear
from neox_eqx.model.neox import GPTNeoX

_STAGES = (("query_key_value", "dense_h_to_4h"), ("dense", "dense_4h_to_h"))
"""The Linears of a layer: those that are rounded first, and those that read what these make."""
_TOKENS = 4096
"""About so many are read at a time."""
_BYTES = 5
"""Of a parameter: four in float32, and less than one for its code and scale."""

Rows = Sequence[Sequence[int]]
Batch = tuple[Float[Array, "B T D"], Bool[Array, "B T"]]


def calibrated(source: Source, rounded: Source, rows: Rows) -> Source:
    """`rounded`, which is `source` with its weights rounded, with codes that suit texts instead.

    `rows` has the tokens of each text. The whole model is in memory, in float32.

    Raises:
        InputError: there is not enough memory, or a number cannot be rounded.
    """
    _check_memory(source)
    model = load_checkpoint(source.checkpoint, LoadOptions(dtype="float32", stacked=False))
    names = {stored_name(entry.name): entry for entry in rounded.entries}
    few = {name: entry for name, entry in names.items() if isinstance(entry, RoundedWeight)}
    found: dict[str, StoredWeight] = {}
    with jax.default_matmul_precision("highest"):
        layers = tqdm(_rounded(model, rows, few), total=len(few), desc="Rounding", disable=None)
        for entry, arrays in layers:
            parts = {
                field: MemoryEntry(entry.path, part.name, arrays[field])
                for field, part in entry.parts.items()
            }
            found[entry.name] = StoredWeight(entry.name, entry.path, entry.shape, entry.form, parts)
    entries = [found.get(entry.name, entry) for entry in rounded.entries]
    return dataclasses.replace(rounded, entries=entries)


def _check_memory(source: Source) -> None:
    if short := shortage(source.entries, bytes_each=_BYTES):
        needed, free = short
        raise InputError(
            f"to calibrate takes {needed} of memory, and {free} are free; leave --calibrate out"
        )


def _rounded(
    model: GPTNeoX, rows: Rows, few: dict[str | None, RoundedWeight]
) -> Iterator[tuple[RoundedWeight, Arrays]]:
    """Each weight that is to be rounded, in the order of the layers, with its arrays in a file."""

    def round_one(name: str, linear: Linear, products: np.ndarray) -> tuple[Any, Linear]:
        entry, weight = few[name], np.asarray(linear.weight)
        check_numbers(entry.stored, entry.form, weight)
        if not np.isfinite(products).all():
            raise InputError(
                f"{name}: what enters it on this text is too large or no number, so that it cannot "
                "be calibrated; leave --calibrate out"
            )
        arrays = round_for_inputs(weight, products)
        held = entry.form.from_file(arrays, weight.shape[1])
        values = entry.form.values(held)[: weight.shape[0], : weight.shape[1]]
        return (entry, arrays), Linear(jnp.asarray(values), linear.bias, linear.axes)

    shell = dataclasses.replace(model, layers=())
    batches = [(model.embed_in(tokens), valid) for tokens, valid in _batches(rows)]
    assert isinstance(model.layers, tuple)
    for number, block in enumerate(model.layers):
        for names in _STAGES:
            products = _summed(_products(shell, block, *batch, names) for batch in batches)
            for name in names:
                path = f"gpt_neox.layers.{number}.{TARGETS[name]}.{name}.weight"
                result, linear = round_one(path, _linear(name, block), products[name])
                yield result
                block = eqx.tree_at(partial(_linear, name), block, linear)
        batches = [(_through(shell, block, *batch), batch[1]) for batch in batches]
    if HEAD in few and model.embed_out is not None:
        hidden = ({HEAD: _square(model.final_layer_norm(x), valid)} for x, valid in batches)
        yield round_one(HEAD, model.embed_out, _summed(hidden)[HEAD])[0]


def _batches(rows: Rows) -> Iterator[tuple[Array, Array]]:
    """Rows of similar length together, filled up to one of a few lengths."""
    waiting: list[Sequence[int]] = []
    for row in sorted(rows, key=len):
        if waiting and (len(waiting) + 1) * bucket(len(row)) > _TOKENS:
            yield _batch(waiting)
            waiting = []
        waiting.append(row)
    yield _batch(waiting)


def _batch(rows: Rows) -> tuple[Array, Array]:
    length = bucket(max(map(len, rows)))
    tokens, valid = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)], valid[number, : len(row)] = row, True
    return jnp.asarray(tokens), jnp.asarray(valid)


def _summed(parts: Iterator[dict[str, Array]]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for part in parts:
        for name, array in part.items():
            total[name] = total.get(name, 0) + np.asarray(array, np.float64)
    return total


def _linear(name: str, block: Block) -> Any:
    return getattr(getattr(block, TARGETS[name]), name)


class _Watched(eqx.Module):
    """A Linear that keeps what enters it, while a layer is traced."""

    linear: Linear
    seen: list[Array] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return self.add_bias(self.product(x))

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        self.seen.append(x)
        return self.linear.product(x)

    def add_bias(self, y: Float[Array, "*B out"]) -> Float[Array, "*B out"]:
        return self.linear.add_bias(y)


@eqx.filter_jit
def _products(
    shell: GPTNeoX,
    block: Block,
    x: Float[Array, "B T D"],
    valid: Bool[Array, "B T"],
    names: tuple[str, ...],
) -> dict[str, Float32[Array, "in in"]]:
    """The `_square` of what enters each of these Linears of a layer."""
    seen: dict[str, list[Array]] = {name: [] for name in names}
    watched = [_Watched(_linear(name, block), seen[name]) for name in names]
    block = eqx.tree_at(lambda own: [_linear(name, own) for name in names], block, watched)
    x, context = shell.begin(x, valid)
    block(x, (), context)
    return {name: _square(own, valid) for name, (own,) in seen.items()}


@eqx.filter_jit
def _through(
    shell: GPTNeoX, block: Block, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    x, context = shell.begin(x, valid)
    return block(x, (), context)[0]


@eqx.filter_jit
def _square(x: Float[Array, "B T in"], valid: Bool[Array, "B T"]) -> Float32[Array, "in in"]:
    """xᵀ x: the products of each two inputs, summed over the positions that are valid."""
    flat = jnp.where(valid[..., None], x, 0).reshape(-1, x.shape[-1])
    return lax.dot_general(flat, flat, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
