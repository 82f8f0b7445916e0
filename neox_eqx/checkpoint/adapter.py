"""A LoRA adapter in PEFT's format, merged into the tensors of its base."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.adapter_config import LoraSettings, read_lora_settings
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.files import ADAPTER_CONFIG, ADAPTER_FILES, read_file
from neox_eqx.checkpoint.merged import MergedEntry
from neox_eqx.checkpoint.names import EMBEDDING, HEAD, stored_name
from neox_eqx.errors import InputError

_PREFIX = "base_model.model."
# Old versions of PEFT left the name of the adapter, `default`, within those of its tensors.
_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(\.default)?(\.weight)?"
)
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save|default)(?=\.)")


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """What LoRA adds to a matrix of (out, in): scale · left right, in float32."""

    left: np.ndarray
    """(out, r)"""
    right: np.ndarray
    """(r, in)"""
    scale: float


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """The tensors of an adapter, by the names that this package gives those of a model."""

    path: Path
    settings: LoraSettings
    pairs: Mapping[str, Pair]
    """By the name of a module, as gpt_neox.layers.0.attention.dense."""
    whole: Mapping[str, Entry]
    """What replaces a tensor of the base: biases and modules that were trained as a whole."""

    @property
    def digest(self) -> str:
        """A hash of its matrices."""
        digest = hashlib.sha256()
        for module, pair in sorted(self.pairs.items()):
            digest.update(repr((module, pair.left.shape, pair.scale)).encode())
            digest.update(pair.left.tobytes() + pair.right.tobytes())
        return digest.hexdigest()


def adapter_file(directory: Path) -> Path:
    """The file with the tensors of an adapter.

    Raises:
        InputError: there is none.
    """
    found = next((directory / name for name in ADAPTER_FILES if (directory / name).is_file()), None)
    if found is None:
        raise InputError(f"{directory}: has no weights; expected {' or '.join(ADAPTER_FILES)}")
    return found


def read_adapter(directory: Path) -> Adapter:
    """The LoRA adapter in a directory, its matrices in memory.

    Raises:
        InputError: it is of another kind, incomplete or corrupt, or holds NaN or infinity.
    """
    settings, path = read_lora_settings(directory), adapter_file(directory)
    halves: dict[str, dict[str, np.ndarray]] = {}
    whole: dict[str, Entry] = {}
    for entry in read_file(path):
        name = entry.name.removeprefix(_PREFIX)
        lora = _LORA.fullmatch(name)
        if lora is None:
            own = stored_name(_WRAPPERS.sub("", name))
            if own is not None:
                whole[own] = entry
            continue
        matrix = _matrix(path, entry)
        if lora["embedding"]:
            matrix = matrix.T
        module = _module(lora["module"])
        halves.setdefault(module, {})[_side(lora)] = matrix
    pairs = {module: _pair(path, settings, module, both) for module, both in halves.items()}
    if not pairs and not whole:
        raise InputError(f"{path}: holds no tensors of LoRA; get the file again")
    return Adapter(path, settings, pairs, whole)


def _module(name: str) -> str:
    """The name of a module as `stored_name` gives those of tensors."""
    return (stored_name(f"{name}.weight") or name).removesuffix(".weight")


def _side(lora: re.Match[str]) -> str:
    """Which factor of W + left right it is: B is left, A right; of an embedding, the reverse."""
    return "left" if (lora["which"] == "B") != bool(lora["embedding"]) else "right"


def _matrix(path: Path, entry: Entry) -> np.ndarray:
    if len(entry.shape) != 2 or not jnp.issubdtype(entry.dtype, jnp.floating):
        raise InputError(
            f"{path}: {entry.name} must be a matrix in floating point, not {entry.dtype} of the "
            f"shape {list(entry.shape)}"
        )
    matrix = entry.read((slice(None), slice(None))).astype(np.float32)
    if not np.isfinite(matrix).all():
        raise InputError(f"{path}: {entry.name} holds NaN or infinity")
    return matrix


def _pair(path: Path, settings: LoraSettings, module: str, both: Mapping[str, np.ndarray]) -> Pair:
    if len(both) < 2:
        raise InputError(f"{path}: {module} has but one of lora_A and lora_B; get the file again")
    with _patterns_of(path):
        rank, scale = settings.rank_of(module), settings.scale_of(module)
    left, right = both["left"], both["right"]
    if not left.shape[1] == right.shape[0] == rank:
        raise InputError(
            f"{path}: the matrices of {module} have the ranks {right.shape[0]} and "
            f"{left.shape[1]}, and {path.parent / 'adapter_config.json'} says {rank}"
        )
    return Pair(left, right, scale)


def merged(directory: Path, entries: Iterable[Entry], *, tied: bool) -> list[Entry]:
    """The tensors of the base with those of its adapter added, in float32 where it adds.

    `tied` says whether the base's head is its embedding.

    Raises:
        InputError: as `read_adapter`, or the adapter does not fit the tensors.
    """
    adapter, entries = read_adapter(directory), list(entries)
    base = {name: entry for entry in entries if (name := stored_name(entry.name))}
    check_fits(adapter, base)
    if tied:
        _check_tied(adapter)
    tensors: list[Entry] = []
    for entry in entries:
        name = stored_name(entry.name) or ""
        if name in adapter.whole:
            entry = _renamed(adapter.whole[name], entry.name)
        pair = adapter.pairs.get(name.removesuffix(".weight"))
        if pair is not None and name.endswith(".weight"):
            entry = MergedEntry(entry, pair.left, pair.right, pair.scale)
        tensors.append(entry)
    new = [_renamed(adapter.whole[name], name) for name in adapter.whole if name not in base]
    return tensors + new


def check_fits(adapter: Adapter, base: Mapping[str, Entry]) -> None:
    """Checks that all of the adapter belongs to these tensors, and that none of it is missing.

    Raises:
        InputError: it does not; the first fault of each kind is named.
    """
    path = adapter.path
    matrices = [
        name.removesuffix(".weight")
        for name, entry in base.items()
        if name.endswith(".weight") and len(entry.shape) == 2
    ]
    strange = [module for module in adapter.pairs if module not in matrices]
    strange += [name for name in adapter.whole if name not in base and name != HEAD]
    if strange:
        raise InputError(
            f"{path}: has tensors of {_first(strange)}, which the model does not have; it belongs "
            "to another model"
        )
    for module, pair in adapter.pairs.items():
        shape = len(pair.left), pair.right.shape[1]
        _check_shape(path, f"what it adds to {module}", shape, base[f"{module}.weight"].shape)
    for name, entry in adapter.whole.items():
        other = base.get(name) or base.get(EMBEDDING)
        if other is not None:
            _check_shape(path, entry.name, entry.shape, other.shape)
    with _patterns_of(path):
        named = adapter.settings.targets.among(matrices)
    missing = [
        module
        for module in named
        if module not in adapter.pairs and f"{module}.weight" not in adapter.whole
    ]
    if missing:
        raise InputError(f"{path}: lacks lora_A and lora_B of {_first(missing)}; get it again")
    unnamed = [module for module in adapter.pairs if module not in named]
    if unnamed:
        raise InputError(
            f"{path}: has lora_A and lora_B of {_first(unnamed)}, which target_modules does not "
            "name"
        )


@contextlib.contextmanager
def _patterns_of(path: Path) -> Iterator[None]:
    """Errors of regular expressions name the settings, which stand beside the file `path`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path.parent / ADAPTER_CONFIG}: {error}") from error


def _check_shape(path: Path, what: str, own: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if own != wanted:
        raise InputError(
            f"{path}: {what} has the shape {list(own)}, and the model's {list(wanted)}; it belongs "
            "to another model, or to one whose vocabulary was resized"
        )


def _check_tied(adapter: Adapter) -> None:
    own = {EMBEDDING, HEAD} & adapter.whole.keys()
    if len(own) == 1 or any(f"{module}.weight" in (EMBEDDING, HEAD) for module in adapter.pairs):
        raise InputError(
            f"{adapter.path}: changes the embedding or the head alone, which are one in its model; "
            "merge it into its model with PEFT"
        )


def _renamed(entry: Any, name: str) -> Entry:
    return dataclasses.replace(entry, name=name)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]:.80}{more}"
