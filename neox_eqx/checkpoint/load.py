"""From a checkpoint to a model in memory, one tensor at a time."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from tqdm import tqdm

from neox_eqx.checkpoint.entry import Entry, blocks
from neox_eqx.checkpoint.files import read_entries
from neox_eqx.checkpoint.fit import fitting, model_shapes
from neox_eqx.checkpoint.hub import resolve
from neox_eqx.checkpoint.names import Parameter, parameters
from neox_eqx.checkpoint.ties import settle_tying
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import heads_together
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.sharding.mesh import Arrangement, checked_mesh, make_mesh
from neox_eqx.sharding.rules import LAYOUTS, parameter_shardings

DTYPES = ("float32", "bfloat16", "float16")


def load(
    source: str | Path,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    stacked: bool | None = None,
    mesh: Mesh | str | None = None,
) -> GPTNeoX:
    """The model of a checkpoint directory in Hugging Face's or native layout, or of a Hub id.

    `dtype` defaults to float32 on a CPU and bfloat16 on an accelerator; `stacked` (layers
    scanned, not unrolled) to False and True. `mesh` spreads the model over devices: a Mesh with
    the axes data and model, or what `make_mesh` takes. On several hosts each process reads only
    what its devices hold, and all devices take part. Beyond the parameters the process needs
    memory for one block of a tensor at a time, and on a mesh for its part of one parameter again.
    In words the mesh may also say `heads=48`, which adds heads of zeros that change nothing so
    that they divide over model, and `layout=2d`, which splits the weights along data too.

    Raises:
        InputError: the checkpoint is absent, incomplete or corrupt, in any process. All missing,
            unexpected and mis-shaped tensors are named at once, before memory is taken for any.

    Example:
        >>> model = load("EleutherAI/pythia-70m")  # doctest: +SKIP
    """
    with agreed():
        directory = resolve(source)
        config = GPTNeoXConfig.from_file(directory / "config.json")
        entries = read_entries(directory)
    return load_entries(directory, config, entries, dtype=dtype, stacked=stacked, mesh=mesh)


def load_entries(
    directory: Path,
    config: GPTNeoXConfig,
    entries: Iterable[Entry],
    *,
    dtype: jax.typing.DTypeLike | None = None,
    stacked: bool | None = None,
    mesh: Mesh | str | None = None,
) -> GPTNeoX:
    """As `load`, of tensors and a config that were found in `directory`, which errors name."""
    on_cpu = jax.default_backend() == "cpu"
    dtype = _dtype("float32" if on_cpu else "bfloat16") if dtype is None else _dtype(dtype)
    stacked = not on_cpu if stacked is None else stacked

    with agreed():
        tensors = fitting(directory, config, entries)
        config = settle_tying(config, tensors, dtype)
        if mesh is None:
            mesh = "auto" if jax.process_count() > 1 else "data=1,model=1"
        asked = Arrangement.parse(mesh if isinstance(mesh, str) else "auto")
        mesh = make_mesh(config, mesh) if isinstance(mesh, str) else checked_mesh(config, mesh)
    heads = asked.heads_of(config)
    how = (config, dtype, stacked, dict(mesh.shape), heads, asked.layout)
    if jax.process_count() > 1:
        check_equal(f"{directory}, its configuration or tensors,", (*how, _fingerprint(tensors)))
    shapes = dataclasses.replace(
        model_shapes(config, dtype, stacked=stacked, heads=heads),
        mesh=mesh if mesh.size > 1 else None,
        layout=asked.layout,
        heads_together=heads_together(heads, mesh),
    )
    places = jax.tree.leaves(_places(shapes, mesh))
    arrays = [
        _place(parameter, tensors, place)
        for parameter, place in zip(_with_progress(parameters(shapes)), places, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


def _dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.name not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; it is one of {', '.join(DTYPES)}")
    return known


def _fingerprint(tensors: dict[str, Entry]) -> list[tuple]:
    """What tells one checkpoint from another that has tensors of the same names.

    Of the values only vectors, norms and biases, which every process needs and which are small.
    """
    vectors = {
        name: entry.read((slice(None),)) for name, entry in tensors.items() if len(entry.shape) == 1
    }
    return [
        (name, entry.dtype, entry.shape, vectors[name].tobytes() if name in vectors else None)
        for name, entry in sorted(tensors.items())
    ]


def _with_progress(parameters: list[Parameter]) -> Iterator[Parameter]:
    """Shows the bytes loaded so far on stderr where that is a terminal."""
    total = sum(parameter.array.size * parameter.array.dtype.itemsize for parameter in parameters)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Loading", disable=None) as progress:
        for parameter in parameters:
            yield parameter
            progress.update(parameter.array.size * parameter.array.dtype.itemsize)


def _places(shapes: GPTNeoX, mesh: Mesh) -> GPTNeoX:
    """Where each parameter is to lie."""
    if mesh.size > 1:
        return parameter_shardings(shapes, mesh, LAYOUTS[shapes.layout])
    device = SingleDeviceSharding(mesh.devices.flat[0])
    return jax.tree.map(lambda _: device, shapes)


def _place(parameter: Parameter, tensors: dict[str, Entry], place: Sharding) -> jax.Array:
    """Reads a parameter to its devices, each part of it once."""
    shape, dtype = parameter.array.shape, parameter.array.dtype

    parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def read_once(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        key = tuple((part.start, part.stop) for part in index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    def read(index: tuple[slice, ...]) -> np.ndarray:
        sizes = (part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        index = tuple(slice(first, last) for first, last in sizes)
        buffer = _aligned_empty(tuple(part.stop - part.start for part in index), dtype)
        if parameter.stacked:
            layers, index = index[0], index[1:]
            for name, layer in zip(parameter.names[layers], buffer, strict=True):
                _fill(layer, tensors[name], index)
        else:
            _fill(buffer, tensors[parameter.names[0]], index)
        return buffer

    by_rows = _by_rows(place, first=1 if parameter.stacked else 0)
    array = jax.make_array_from_callback(shape, by_rows, read_once)
    if by_rows.is_equivalent_to(place, len(shape)):
        return array
    return jax.device_put(array, place, donate=True)


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


def _fill(buffer: np.ndarray, entry: Entry, index: tuple[slice, ...]) -> None:
    """The part of the tensor at `index`, and zeros where that is outside: the heads that pad."""
    inside = [
        slice(part.start, max(part.start, min(part.stop, size)))
        for part, size in zip(index, entry.shape, strict=True)
    ]
    if inside != list(index):
        buffer[...] = 0
        buffer = buffer[tuple(slice(part.stop - part.start) for part in inside)]
        if buffer.size == 0:
            return
    index = tuple(inside)
    for first, block in blocks(entry, index, buffer.dtype):
        buffer[first : first + len(block)] = block
