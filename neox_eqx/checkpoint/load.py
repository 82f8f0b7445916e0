"""From a checkpoint to a model in memory, one tensor at a time."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from tqdm import tqdm

from neox_eqx.checkpoint.entry import Entry, blocks
from neox_eqx.checkpoint.files import read_entries
from neox_eqx.checkpoint.hub import resolve
from neox_eqx.checkpoint.names import HEAD, Parameter, parameters, stored_name
from neox_eqx.checkpoint.ties import rename_shared_head, settle_tying
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.sharding.rules import parameter_shardings

DTYPES = ("float32", "bfloat16", "float16")


def load(
    source: str | Path,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    stacked: bool | None = None,
    mesh: Mesh | str | None = None,
) -> GPTNeoX:
    """The model of a checkpoint directory in Hugging Face's layout, or of a Hub id.

    `dtype` defaults to float32 on a CPU and bfloat16 on an accelerator; `stacked` (layers
    scanned, not unrolled) to False and True. `mesh` spreads the model over devices: a Mesh with
    the axes data and model, or what `make_mesh` takes. On several hosts each process reads only
    what its devices hold. Beyond the parameters the process needs memory for one block of a
    tensor at a time.

    Raises:
        InputError: the checkpoint is absent, incomplete or corrupt, in any process. All missing,
            unexpected and mis-shaped tensors are named at once, before memory is taken for any.

    Example:
        >>> model = load("EleutherAI/pythia-70m")  # doctest: +SKIP
    """
    on_cpu = jax.default_backend() == "cpu"
    dtype = _dtype("float32" if on_cpu else "bfloat16") if dtype is None else _dtype(dtype)
    stacked = not on_cpu if stacked is None else stacked

    with agreed():
        directory = resolve(source)
        config = GPTNeoXConfig.from_file(directory / "config.json")
        tensors = _by_stored_name(directory, read_entries(directory))
        tensors = rename_shared_head(config, tensors)
        _check(directory, config, tensors)
        config = settle_tying(config, tensors, dtype)
        mesh = make_mesh(config, mesh) if isinstance(mesh, str) else mesh
        if mesh is not None and mesh.size == 1:
            mesh = None
    check_equal(f"{source}, its configuration or tensors,", (config, sorted(tensors)))
    shapes = dataclasses.replace(model_shapes(config, dtype, stacked=stacked), mesh=mesh)
    places = jax.tree.leaves(_places(shapes))
    arrays = [
        _place(parameter, tensors, place)
        for parameter, place in zip(_with_progress(parameters(shapes)), places, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


def model_shapes(config: GPTNeoXConfig, dtype: jnp.dtype, *, stacked: bool) -> GPTNeoX:
    """The model with a ShapeDtypeStruct in place of each array."""
    return jax.eval_shape(
        lambda: GPTNeoX.init(config, dtype=dtype, stacked=stacked, key=jax.random.key(0))
    )


def _dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.name not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; it is one of {', '.join(DTYPES)}")
    return known


def _by_stored_name(directory: Path, entries: Iterable[Entry]) -> dict[str, Entry]:
    tensors: dict[str, Entry] = {}
    for entry in entries:
        name = stored_name(entry.name)
        if name in tensors:
            both = f"{tensors[name].name} and {entry.name}"
            raise InputError(f"{directory}: holds {both}, which are the same parameter; remove one")
        if name is not None:
            tensors[name] = entry
    return tensors


def _check(directory: Path, config: GPTNeoXConfig, tensors: dict[str, Entry]) -> None:
    """Each parameter has its tensor, in the right shape, and no tensor is left over."""
    if config.num_hidden_layers > len(tensors):
        raise InputError(
            f"{directory}: tensors do not fit config.json; "
            f"{config.num_hidden_layers} layers and only {len(tensors)} tensors"
        )
    if HEAD in tensors:
        config = dataclasses.replace(config, tie_word_embeddings=False)
    expected = parameters(model_shapes(config, jnp.dtype(jnp.float32), stacked=False))
    shapes = {parameter.names[0]: parameter.shape for parameter in expected}
    found = [(name, entry) for name, entry in tensors.items() if name in shapes]
    problems = {
        "missing": [_missing(name) for name in shapes if name not in tensors],
        "unexpected": [entry.name for name, entry in tensors.items() if name not in shapes],
        "of the wrong shape": [
            f"{entry.name} {list(entry.shape)}, not {list(shapes[name])}"
            for name, entry in found
            if entry.shape != shapes[name]
        ],
        "not floating point": [
            f"{entry.name} {entry.dtype}"
            for _, entry in found
            if not jnp.issubdtype(entry.dtype, jnp.floating)
        ],
    }
    listed = [f"{what}: {', '.join(_folded(names))}" for what, names in problems.items() if names]
    if listed:
        raise InputError(f"{directory}: tensors do not fit config.json; {'; '.join(listed)}")


def _missing(name: str) -> str:
    return f"{name} (tie_word_embeddings is false)" if name == HEAD else name


def _folded(texts: list[str]) -> Iterator[str]:
    """The same texts; those that differ in their layer only are one, as `layers.{0-3,7}.bias`."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for text in texts:
        before, *layer_and_after = re.split(
            r"(?<=layers\.)(0|[1-9]\d{0,5})(?=\.)", text, maxsplit=1
        )
        layers = groups.setdefault((before, *layer_and_after[1:]), [])
        layers += [int(layer) for layer in layer_and_after[:1]]
    for parts, layers in groups.items():
        yield _runs(sorted(layers)).join(parts)


def _runs(numbers: list[int]) -> str:
    """Ascending numbers, in braces if there are several, with the runs among them shortened."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text


def _with_progress(parameters: list[Parameter]) -> Iterator[Parameter]:
    """Shows the bytes loaded so far on stderr where that is a terminal."""
    total = sum(parameter.array.size * parameter.array.dtype.itemsize for parameter in parameters)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Loading", disable=None) as progress:
        for parameter in parameters:
            yield parameter
            progress.update(parameter.array.size * parameter.array.dtype.itemsize)


def _places(shapes: GPTNeoX) -> GPTNeoX:
    """Where each parameter is to lie."""
    if shapes.mesh is not None:
        return parameter_shardings(shapes, shapes.mesh)
    device = SingleDeviceSharding(jax.devices()[0])
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
        sizes = (part.indices(size) for part, size in zip(index, shape, strict=True))
        buffer = _aligned_empty(tuple(last - first for first, last, _ in sizes), dtype)
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
    for first, block in blocks(entry, index, buffer.dtype):
        buffer[first : first + len(block)] = block
