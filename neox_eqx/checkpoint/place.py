"""A parameter on its way from the tensors of a checkpoint to its devices."""

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from neox_eqx.checkpoint.entry import Entry, blocks
from neox_eqx.checkpoint.names import Parameter
from neox_eqx.errors import InputError
from neox_eqx.model.int8 import quantize_rows

Index = tuple[slice, ...]
Key = tuple[tuple[int | None, int | None], ...]


def place(parameter: Parameter, tensors: dict[str, Entry], where: Sharding) -> jax.Array:
    """Reads a parameter to its devices, each part of it once."""
    dtype = parameter.array.dtype

    def read(index: Index) -> np.ndarray:
        buffer = _aligned_empty(_sizes(parameter, index), dtype)
        for number, entry, within in _tensors_at(parameter, tensors, index):
            layer = buffer[number] if parameter.stacked else buffer
            for first, block in blocks(entry, within, dtype):
                layer[first : first + len(block)] = block
        return buffer

    by_rows = _by_rows(where, first=1 if parameter.stacked else 0)
    return spread(jax.make_array_from_callback(parameter.array.shape, by_rows, _once(read)), where)


def place_quantized(
    parameter: Parameter, tensors: dict[str, Entry], where: Sharding
) -> tuple[jax.Array, jax.Array]:
    """Reads a weight to its devices as int8; and its scale, whose rows are still where they came.

    The scale of a row is that of all its columns, also of those that other devices get.

    Raises:
        InputError: there is NaN or infinity in it.
    """
    scales: dict[Key, np.ndarray] = {}

    def read(index: Index) -> np.ndarray:
        sizes = _sizes(parameter, index)
        weight = _aligned_empty(sizes, np.dtype(np.int8))
        scale = _aligned_empty(sizes[:-1], np.dtype(np.float32))
        for number, entry, (rows, columns) in _tensors_at(parameter, tensors, index):
            part = number if parameter.stacked else slice(None)
            for first, block in blocks(entry, (rows, slice(None)), np.dtype(np.float32)):
                _check_finite(entry, block)
                steps, scale[part][first : first + len(block)] = quantize_rows(block)
                weight[part][first : first + len(block)] = steps[:, columns]
        scales[_key(index[:-1])] = scale
        return weight

    shape = parameter.array.shape
    by_rows = _by_rows(where, first=1 if parameter.stacked else 0)
    weight = jax.make_array_from_callback(shape, by_rows, _once(read))
    if isinstance(by_rows, NamedSharding):
        of_scale: Sharding = NamedSharding(
            by_rows.mesh, PartitionSpec(*by_rows.spec[: len(shape) - 1])
        )
    else:
        of_scale = by_rows
    scale = jax.make_array_from_callback(shape[:-1], of_scale, lambda index: scales[_key(index)])
    return spread(weight, where), scale


def spread(array: jax.Array, where: Sharding) -> jax.Array:
    """The array where it is to lie; what it was is gone."""
    if array.sharding.is_equivalent_to(where, array.ndim):
        return array
    return jax.device_put(array, where, donate=True)


def _tensors_at(
    parameter: Parameter, tensors: dict[str, Entry], index: Index
) -> Iterator[tuple[int, Entry, Index]]:
    """The tensors that a part of a parameter is in: their numbers in it, and their own parts."""
    names = parameter.names
    if parameter.stacked:
        names, index = names[index[0]], index[1:]
    for number, name in enumerate(names):
        yield number, tensors[name], index


def _once(read: Callable[[Index], np.ndarray]) -> Callable[[Index | None], np.ndarray]:
    """Devices that hold the same part get what is read for the first of them."""
    parts: dict[Key, np.ndarray] = {}

    def read_once(index: Index | None) -> np.ndarray:
        assert index is not None
        key = _key(index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return read_once


def _key(index: Index | None) -> Key:
    assert index is not None
    return tuple((part.start, part.stop) for part in index)


def _sizes(parameter: Parameter, index: Index) -> tuple[int, ...]:
    ranges = (part.indices(size) for part, size in zip(index, parameter.array.shape, strict=True))
    return tuple(last - first for first, last, _ in ranges)


def _by_rows(place: Sharding, first: int) -> Sharding:
    """The same number of parts, of rows: a file holds those in one piece, and columns in many.

    What is split by columns goes to its devices over the interconnect instead.
    """
    if not isinstance(place, NamedSharding):
        return place
    axes = [axis for axis in place.spec if axis is not None]
    return NamedSharding(place.mesh, PartitionSpec(*[None] * first, *axes))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A buffer that JAX takes over as it is: on a CPU it copies what is not at 64 bytes."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(dtype).reshape(shape)


def _check_finite(entry: Entry, block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise InputError(
            f"{entry.path}: {entry.name} holds NaN or infinity, which int8 has not; "
            "load it without quantize"
        )
