"""From a checkpoint to a model in memory, one tensor at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding
from tqdm import tqdm

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.fingerprint import fingerprint
from neox_eqx.checkpoint.fit import arranged_shapes, as_stored, fitting
from neox_eqx.checkpoint.names import dotted, parameters
from neox_eqx.checkpoint.origin import find
from neox_eqx.checkpoint.place import place, place_quantized
from neox_eqx.checkpoint.ties import settle_tying
from neox_eqx.errors import InputError
from neox_eqx.model.formats import Form
from neox_eqx.model.int8_cache import cache_of
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.quantized import QuantizedLinear
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.sharding.mesh import Arrangement, checked_mesh, make_mesh
from neox_eqx.sharding.rules import LAYOUTS, parameter_shardings
from neox_eqx.shown import shown

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How a model is to lie in memory: the arguments of `load` of these names."""

    dtype: jax.typing.DTypeLike | None = None
    stacked: bool | None = None
    mesh: Mesh | str | None = None
    quantize: Form | None = None
    cache_bits: int | None = None
    rules: Mapping[str, str] | None = None


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    base: str | Path | None = None,
    dtype: jax.typing.DTypeLike | None = None,
    stacked: bool | None = None,
    mesh: Mesh | str | None = None,
    quantize: Form | None = None,
    cache_bits: int | None = None,
    rules: Mapping[str, str] | None = None,
) -> GPTNeoX:
    """The model of a checkpoint directory in Hugging Face's or native layout, or of a Hub id.

    `revision` is a branch, tag or commit of a Hub id, which may also stand in it, as in
    ID@step3000; `base` names the model of a LoRA adapter, if it is not where the adapter says.

    `dtype` is that of the parameters and of the computation, by default bfloat16 on an accelerator.
    On a CPU the default is to compute in float32, with the matrices that are stored in 16 bits
    left in these: the same numbers in half the memory. `stacked` (layers scanned, not unrolled)
    is by default False on a CPU and True on an accelerator. `mesh` spreads the model over
    devices: a Mesh with the axes data and model, or what `make_mesh` takes. On several hosts each
    process reads only what its devices hold, and all devices take part. Beyond the parameters the
    process needs memory for one block of a tensor at a time, and on a mesh for its part of one
    parameter again.
    In words the mesh may also say `heads=48`, which adds heads of zeros that change nothing so
    that they divide over model, and `layout=2d`, which splits the weights along data too.

    `quantize="int8"` rounds the weights of the layers, and of a head that is not the embedding, to
    8 bits with a scale for each row, and `"int4"` to 4 bits with a scale for each 32 numbers of a
    row; all else and the computation are in `dtype`. It may also be a class of your own, see
    `neox_eqx.model.quantized`. A checkpoint that is in few bits itself is left in them.

    `cache_bits=8` keeps keys and values in 8 bits, with a scale for each head and token.

    `rules` are a table that says where parameters lie on the mesh, as `TRAINING_RULES` does; by
    default it is the layout's.

    Raises:
        InputError: the checkpoint is absent, incomplete or corrupt, in any process. All missing,
            unexpected and mis-shaped tensors are named at once, before memory is taken for any.
            What is to be rounded holds NaN, infinity or a number that is too large; or is in
            another form already.

    Examples:
        >>> model = load("EleutherAI/pythia-70m")  # doctest: +SKIP
    """
    with agreed():
        origin = find(source, revision=revision, base=base)
    return load_checkpoint(
        Checkpoint.open(origin),
        LoadOptions(
            dtype=dtype,
            stacked=stacked,
            mesh=mesh,
            quantize=quantize,
            cache_bits=cache_bits,
            rules=rules,
        ),
    )


def load_checkpoint(checkpoint: Checkpoint, options: LoadOptions) -> GPTNeoX:
    """The model of a checkpoint that is open.

    Raises:
        InputError: as `load` does.
    """
    return _filled(*_arranged(checkpoint, options))


def load_shapes(checkpoint: Checkpoint, options: LoadOptions) -> GPTNeoX:
    """What `load_checkpoint` would return, with a ShapeDtypeStruct in place of each array.

    Raises:
        InputError: as `load` does; but no tensor is read.
    """
    return _arranged(checkpoint, options)[0]


def _arranged(checkpoint: Checkpoint, options: LoadOptions) -> tuple[GPTNeoX, dict[str, Entry]]:
    """The shapes of the parameters, each with where it is to lie, and the tensors to fill them."""
    on_cpu = jax.default_backend() == "cpu"
    default = "float32" if on_cpu else "bfloat16"
    dtype = _dtype(default if options.dtype is None else options.dtype)
    stacked = not on_cpu if options.stacked is None else options.stacked
    mesh, cache = options.mesh, cache_of(options.cache_bits)
    form = checkpoint.form_to_hold(options.quantize)

    with agreed():
        tensors = fitting(checkpoint)
        config = settle_tying(checkpoint.config, tensors, dtype)
        if mesh is None:
            mesh = "auto" if jax.process_count() > 1 else "data=1,model=1"
        asked = Arrangement.parse(mesh if isinstance(mesh, str) else "auto")
        mesh = make_mesh(config, mesh) if isinstance(mesh, str) else checked_mesh(config, mesh)
    sizes = (dict(mesh.shape), asked.heads_of(config), asked.layout)
    if jax.process_count() > 1:
        how = (config, dtype, stacked, *sizes, form and form.name, options.cache_bits)
        check_equal(
            f"{checkpoint.directory}, its configuration or tensors,", (*how, fingerprint(tensors))
        )
    shapes = arranged_shapes(config, dtype, mesh, asked, stacked=stacked, quantize=form)
    if on_cpu and options.dtype is None:
        shapes = as_stored(shapes, tensors)
    shapes = dataclasses.replace(shapes, cache=cache, mesh=mesh if mesh.size > 1 else None)
    return _placed(shapes, mesh, options.rules), tensors


def _dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.name not in DTYPES:
        raise InputError(f"dtype {shown(dtype)} is not supported; it is one of {', '.join(DTYPES)}")
    return known


def _placed(shapes: GPTNeoX, mesh: Mesh, rules: Mapping[str, str] | None) -> GPTNeoX:
    """The shapes, each with the sharding that says where its parameter is to lie."""
    if mesh.size > 1:
        places = parameter_shardings(shapes, mesh, rules or LAYOUTS[shapes.layout])
    else:
        device = SingleDeviceSharding(mesh.devices.flat[0])
        places = jax.tree.map(lambda _: device, shapes)
    return jax.tree.map(
        lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where),
        shapes,
        places,
    )


def _filled(shapes: GPTNeoX, tensors: dict[str, Entry]) -> GPTNeoX:
    """The model with each parameter read to its place."""
    of_path = {parameter.path: parameter for parameter in parameters(shapes)}
    total = sum(parameter.nbytes for parameter in of_path.values())
    # On stderr, where that is a terminal.
    with tqdm(total=total, unit="B", unit_scale=True, desc="Loading", disable=None) as progress:

        def read(path: str) -> jax.Array:
            array = place(of_path[path], tensors)
            progress.update(of_path[path].nbytes)
            return array

        def fill(path: tuple[Any, ...], node: Any) -> Any:
            name = dotted(path)
            if not isinstance(node, QuantizedLinear):
                return read(name)
            bias = None if node.bias is None else read(f"{name}.bias")
            arrays: dict[str, Any] = place_quantized(node, of_path[f"{name}.weight"], tensors)
            progress.update(sum(array.nbytes for array in arrays.values()))
            return dataclasses.replace(node, bias=bias, **arrays)

        return jax.tree_util.tree_map_with_path(
            fill, shapes, is_leaf=lambda node: isinstance(node, QuantizedLinear)
        )
