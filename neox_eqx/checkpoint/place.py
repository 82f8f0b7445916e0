"""A parameter on its way from the tensors of a checkpoint to its devices."""

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from neox_eqx.checkpoint.entry import Entry, blocks
from neox_eqx.checkpoint.names import Parameter
from neox_eqx.errors import InputError
from neox_eqx.model.int8 import TINY, quantize_rows

Index = tuple[slice, ...]
Part = TypeVar("Part")


def place(parameter: Parameter, tensors: dict[str, Entry], where: Sharding) -> jax.Array:
    """Reads a parameter to its devices, each part of it once."""
    shape, dtype = parameter.array.shape, parameter.array.dtype

    def read(index: Index) -> np.ndarray:
        buffer = _aligned_empty(_sizes(index), dtype)
        for entry, part, within in _tensors_at(parameter, tensors, buffer, index):
            _fill(part, entry, within)
        return buffer

    by_rows = _by_rows(where, shape, first=1 if parameter.stacked else 0)
    return spread(jax.make_array_from_callback(shape, by_rows, _once(read, shape)), where)


def place_quantized(
    parameter: Parameter, tensors: dict[str, Entry], where: Sharding
) -> tuple[jax.Array, jax.Array]:
    """Reads a weight to its devices as int8; and its scale, each part where it was read.

    Rows are read as a whole: the scale of one is that of the columns of all devices.

    Raises:
        InputError: there is NaN or infinity in it.
    """
    *rows_shape, columns = parameter.array.shape

    def read(rows: Index) -> tuple[np.ndarray, np.ndarray]:
        weight = _aligned_empty((*_sizes(rows), columns), np.dtype(np.int8))
        scale = _aligned_empty(_sizes(rows), np.dtype(np.float32))
        index = (*rows, slice(0, columns))
        weights = _tensors_at(parameter, tensors, weight, index)
        scales = _tensors_at(parameter, tensors, scale, index)
        for (entry, part, within), (_, of_part, _) in zip(weights, scales, strict=True):
            _fill_quantized(part, of_part, entry, within)
        return weight, scale

    read_once = _once(read, tuple(rows_shape))

    def read_weight(index: Index | None) -> np.ndarray:
        assert index is not None
        return read_once(index[:-1])[0][(..., index[-1])]

    by_rows = rows = _by_rows(where, parameter.array.shape, first=1 if parameter.stacked else 0)
    weight = jax.make_array_from_callback(parameter.array.shape, by_rows, read_weight)
    if isinstance(by_rows, NamedSharding):
        rows = NamedSharding(by_rows.mesh, PartitionSpec(*by_rows.spec[: len(rows_shape)]))
    scale = jax.make_array_from_callback(tuple(rows_shape), rows, lambda index: read_once(index)[1])
    return spread(weight, where), scale


def spread(array: jax.Array, where: Sharding) -> jax.Array:
    """The array where it is to lie; what it was is gone."""
    if array.sharding.is_equivalent_to(where, array.ndim):
        return array
    return jax.device_put(array, where, donate=True)


def _tensors_at(
    parameter: Parameter, tensors: dict[str, Entry], buffer: np.ndarray, index: Index
) -> Iterator[tuple[Entry, np.ndarray, Index]]:
    """The tensors in a part of a parameter, with their place in its buffer and their own part."""
    if not parameter.stacked:
        yield tensors[parameter.names[0]], buffer, index
        return
    for name, layer in zip(parameter.names[index[0]], buffer, strict=True):
        yield tensors[name], layer, index[1:]


def _once(read: Callable[[Index], Part], shape: tuple[int, ...]) -> Callable[[Index | None], Part]:
    """Devices that hold the same part get what is read for the first of them."""
    parts: dict[tuple[tuple[int, int], ...], Part] = {}

    def read_once(index: Index | None) -> Part:
        assert index is not None
        ranges = (part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        key = tuple(ranges)
        if key not in parts:
            parts[key] = read(tuple(slice(first, last) for first, last in key))
        return parts[key]

    return read_once


def _sizes(index: Index) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in index)


def _by_rows(where: Sharding, shape: tuple[int, ...], first: int) -> Sharding:
    """The same number of parts, of rows: a file holds those in one piece, and columns in many.

    What is split by columns goes to its devices over the interconnect instead. Rows that do not
    divide are read as they are to lie. `first` is the dimension of the rows in `shape`.
    """
    if not isinstance(where, NamedSharding):
        return where
    axes = tuple(axis for axis in where.spec if axis is not None)
    if not axes or shape[first] % math.prod(where.mesh.shape[axis] for axis in axes):
        return where
    return NamedSharding(where.mesh, PartitionSpec(*[None] * first, axes))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A buffer that JAX takes over as it is: on a CPU it copies what is not at 64 bytes."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(dtype).reshape(shape)


def _inside(entry: Entry, index: Index) -> Index:
    """What of `index` is in the tensor: the heads that pad are outside."""
    return tuple(
        slice(part.start, max(part.start, min(part.stop, size)))
        for part, size in zip(index, entry.shape, strict=True)
    )


def _fill(buffer: np.ndarray, entry: Entry, index: Index) -> None:
    """The part of the tensor at `index`, and zeros where that is outside."""
    inside = _inside(entry, index)
    if inside != index:
        buffer[...] = 0
        buffer = buffer[tuple(slice(size) for size in _sizes(inside))]
        if buffer.size == 0:
            return
    for first, block in blocks(entry, inside, buffer.dtype):
        buffer[first : first + len(block)] = block


def _fill_quantized(weight: np.ndarray, scale: np.ndarray, entry: Entry, index: Index) -> None:
    """As `_fill`, of whole rows."""
    inside = _inside(entry, index)
    if inside != index:
        weight[...] = 0
        scale[...] = TINY
        weight = weight[:, : entry.shape[1]]
    for first, block in blocks(entry, inside, scale.dtype):
        if not np.isfinite(block).all():
            raise InputError(
                f"{entry.path}: {entry.name} holds NaN or infinity, which int8 has not; "
                "load it without quantize"
            )
        rows = slice(first, first + len(block))
        weight[rows], scale[rows] = quantize_rows(block)
