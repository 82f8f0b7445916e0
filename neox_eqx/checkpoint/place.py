"""A parameter on its way from the tensors of a checkpoint to its devices."""

import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from neox_eqx.checkpoint.entry import Entry, FileEntry, blocks, row_ranges
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.checkpoint.mapped import ALIGNMENT, mapped
from neox_eqx.checkpoint.names import Parameter
from neox_eqx.checkpoint.rounded import check_numbers
from neox_eqx.model.quantized import QuantizedLinear

Index = tuple[slice, ...]
Part = TypeVar("Part")

_HUGE = 2**22
"""Bytes from which NumPy asks for huge pages."""


def place(parameter: Parameter, tensors: dict[str, Entry]) -> jax.Array:
    """Reads a parameter to its devices, each part of it once."""
    shape, dtype, where = parameter.array.shape, parameter.array.dtype, parameter.array.sharding

    def read(index: Index) -> np.ndarray:
        if (stored := _in_place(parameter, tensors, index)) is not None:
            return stored
        buffer = _aligned_empty(_sizes(index), dtype)
        for entry, part, within in _tensors_at(parameter, tensors, buffer, index):
            _fill(part, entry, within)
        return buffer

    by_rows = _by_rows(where, shape, first=1 if parameter.stacked else 0)
    return spread(jax.make_array_from_callback(shape, by_rows, _once(read, shape)), where)


def place_quantized(
    layer: QuantizedLinear, weight: Parameter, tensors: dict[str, Entry]
) -> dict[str, jax.Array]:
    """Reads a weight to its devices in the layer's form: each of its arrays, by its field's name.

    `weight` is the parameter of that name, which says what tensors it is of; `layer` has the shapes
    and shardings. Rows are read as a whole, each once, as a form may need all of a row.

    Raises:
        InputError: there is a number in it that the form has not.
    """
    *layers, out, columns = layer.shape
    rows_shape = (*layers, -(-out // layer.rows_together))
    zeros = layer.encode(np.zeros((1, columns), np.float32))
    fields = {name: getattr(layer, name) for name in zeros}
    depth = len(rows_shape)

    def read(rows: Index) -> dict[str, np.ndarray]:
        buffers = {
            name: _aligned_empty((*_sizes(rows), *field.shape[depth:]), np.dtype(field.dtype))
            for name, field in fields.items()
        }
        own_rows = slice(*(layer.rows_together * end for end in (rows[-1].start, rows[-1].stop)))
        index = (*rows[:-1], own_rows, slice(0, columns))
        parts = [_tensors_at(weight, tensors, buffer, index) for buffer in buffers.values()]
        for of_tensor in zip(*parts, strict=True):
            (entry, _, within), *_ = of_tensor
            own = {name: part for name, (_, part, _) in zip(buffers, of_tensor, strict=True)}
            _fill_quantized(own, type(layer), entry, within, zeros)
        return buffers

    read_once = _once(read, rows_shape)
    as_matrix = _by_rows(layer.weight.sharding, rows_shape, first=1 if weight.stacked else 0)
    as_rows = as_matrix
    if isinstance(as_matrix, NamedSharding):
        as_rows = NamedSharding(as_matrix.mesh, PartitionSpec(*as_matrix.spec[:depth]))

    def placed(name: str, field: jax.ShapeDtypeStruct) -> jax.Array:
        def read_field(index: Index | None) -> np.ndarray:
            assert index is not None
            columns: Any = (..., *index[depth:])
            return read_once(index[:depth])[name][columns]

        where = as_matrix if field.shape == layer.shape else as_rows
        array = jax.make_array_from_callback(field.shape, where, read_field)
        return spread(array, field.sharding)

    return {name: placed(name, field) for name, field in fields.items()}


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


def _in_place(parameter: Parameter, tensors: dict[str, Entry], index: Index) -> np.ndarray | None:
    """A part of a parameter as it is in its file, where a CPU can use it there."""
    entry, array = tensors[parameter.names[0]], parameter.array
    is_as_stored = not parameter.stacked and entry.dtype == array.dtype
    on_cpu = all(device.platform == "cpu" for device in array.sharding.addressable_devices)
    if not (is_as_stored and on_cpu and isinstance(entry, FileEntry)):
        return None
    return mapped(entry, index) if _inside(entry, index) == index else None


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
    """A buffer that JAX takes over as it is, on a CPU.

    A large one is not NumPy's, which asks for huge pages: where memory is in pieces, Linux moves
    these about first, and loading took ten times as long.
    """
    count = math.prod(shape) * dtype.itemsize
    if count < _HUGE:
        raw = np.empty(count + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
    else:
        pages = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        raw, start = np.frombuffer(pages, np.uint8), 0
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
    if isinstance(entry, FileEntry) and entry.read_into(buffer, inside):
        return
    for first, block in blocks(entry, inside, buffer.dtype):
        buffer[first : first + len(block)] = block


def _fill_quantized(
    buffers: dict[str, np.ndarray],
    form: type[QuantizedLinear],
    entry: Entry,
    index: Index,
    zeros: dict[str, np.ndarray],
) -> None:
    """As `_fill`, of whole rows in their form, in which `zeros` are a row of zeros."""
    inside = _inside(entry, index)
    for first, arrays in _encoded(form, entry, inside, columns=_sizes(index)[1]):
        start = first // form.rows_together
        for name, encoded in arrays.items():
            buffers[name][start : start + len(encoded)] = encoded
    filled = -(-_sizes(inside)[0] // form.rows_together)
    for name, row in zeros.items():
        buffers[name][filled:] = row


def _encoded(
    form: type[QuantizedLinear], entry: Entry, inside: Index, *, columns: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The rows of a tensor in their form, in blocks, each with its first row's number.

    What is in few bits is not rounded again.
    """
    if isinstance(entry, FewBits) and entry.form.name == form.name:
        for rows in row_ranges(entry, inside[0], granule=form.rows_together):
            yield rows.start - inside[0].start, form.from_file(entry.rows(rows), columns)
        return
    wide = np.dtype(np.float32)
    for first, block in blocks(entry, inside, wide, granule=form.rows_together):
        check_numbers(entry, form, block)
        missing = columns - block.shape[1]
        yield first, form.encode(np.pad(block, ((0, 0), (0, missing))) if missing else block)
