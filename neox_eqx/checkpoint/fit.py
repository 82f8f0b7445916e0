"""Whether the tensors of a checkpoint are those that its config.json asks for."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.names import HEAD, dotted, parameters, stored_name
from neox_eqx.checkpoint.ties import rename_shared_head
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.formats import Form, quantized
from neox_eqx.model.heads import heads_together
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.quantized import QuantizedLinear
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.shown import few

_SIXTEEN_BITS = {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}
_LETTERS = 800
"""The letters that names of wrong tensors may take in a message."""


def fitting(checkpoint: Checkpoint) -> dict[str, Entry]:
    """The tensors of the parameters, each under the name that this package gives it.

    Raises:
        InputError: names the missing, unexpected and mis-shaped tensors at once.
    """
    directory, config = checkpoint.directory, checkpoint.config
    tensors = rename_shared_head(config, _by_stored_name(directory, checkpoint.entries))
    _check(directory, config, tensors)
    return tensors


def model_shapes(
    config: GPTNeoXConfig,
    dtype: jnp.dtype,
    *,
    stacked: bool,
    heads: int | None = None,
    quantize: Form | None = None,
) -> GPTNeoX:
    """The model with a ShapeDtypeStruct in place of each array."""

    def init() -> GPTNeoX:
        key = jax.random.key(0)
        model = GPTNeoX.init(config, dtype=dtype, stacked=stacked, heads=heads, key=key)
        return quantized(model, quantize) if quantize else model

    return jax.eval_shape(init)


def arranged_shapes(
    config: GPTNeoXConfig,
    dtype: jnp.dtype,
    mesh: Mesh,
    asked: Arrangement,
    *,
    stacked: bool,
    quantize: Form | None,
) -> GPTNeoX:
    """As `model_shapes`, with the heads, layout and kind of cache that `asked` means."""
    heads = asked.heads_of(config)
    return dataclasses.replace(
        model_shapes(config, dtype, stacked=stacked, heads=heads, quantize=quantize),
        mesh=mesh,
        layout=asked.layout,
        heads_together=heads_together(heads, mesh),
    )


def as_stored(shapes: GPTNeoX, tensors: dict[str, Entry]) -> GPTNeoX:
    """The shapes, with each matrix that its tensors hold in 16 bits in their dtype.

    What is in few bits stays so. Biases and norms stay as well: they take no time to read.
    """
    of_path = {parameter.path: parameter for parameter in parameters(shapes)}

    def settle(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, QuantizedLinear):
            return node
        parameter = of_path[dotted(path)]
        dtypes = {tensors[name].dtype for name in parameter.names}
        if len(parameter.shape) < 2 or len(dtypes) > 1 or dtypes.isdisjoint(_SIXTEEN_BITS):
            return node
        return jax.ShapeDtypeStruct(node.shape, dtypes.pop())

    return jax.tree_util.tree_map_with_path(
        settle, shapes, is_leaf=lambda node: isinstance(node, QuantizedLinear)
    )


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
    """Checks that each parameter has a tensor of its shape, and that no tensor is left over."""
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
    folded = {what: [*_folded(names)] for what, names in problems.items() if names}
    if folded:
        letters = _LETTERS // len(folded)
        listed = "; ".join(f"{what}: {few(names, letters)}" for what, names in folded.items())
        raise InputError(f"{directory}: tensors do not fit config.json; {listed}")


def _missing(name: str) -> str:
    return f"{name} (tie_word_embeddings is false)" if name == HEAD else name


def _folded(texts: list[str]) -> Iterator[str]:
    """The texts, where those that differ in their layer only are one: `layers.{0-3,7}.bias`."""
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
    """Ascending numbers as {0-3,7}, or one number alone."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text
