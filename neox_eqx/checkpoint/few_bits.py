"""Weights of a checkpoint that lie in few bits, as `convert --quantize` writes them.

A weight in few bits is a tensor like any other, whose values are those that its codes stand for. In
the files it is a tensor for each array of its form: `NAME.weight` has the codes and `NAME.scale`
their scales.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.names import HEAD, linears, stored_name
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.quantized import QuantizedLinear
from neox_eqx.shown import shown

Arrays = dict[str, np.ndarray]
"""By the fields of a form."""
FormClass = type[QuantizedLinear]


class FewBits(abc.ABC):
    """A weight (out, in) of a Linear in a form of few bits: an `Entry` of its values."""

    name: str
    path: Path
    shape: tuple[int, ...]
    form: FormClass

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    @abc.abstractmethod
    def parts(self) -> Mapping[str, Entry]:
        """The tensors of a file that hold it, by their fields in the form."""

    @abc.abstractmethod
    def rows(self, rows: slice) -> Arrays:
        """The rows in a slice of step 1 of all arrays, as a file has them."""

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`: the float32 numbers that codes and scales stand for."""
        out, columns = self.shape
        first, last, _ = index[0].indices(out)
        held = self.form.from_file(self.rows(slice(first, last)), columns)
        return self.form.values(held)[: max(last - first, 0), :columns][:, index[1]]


@dataclasses.dataclass(frozen=True)
class StoredWeight(FewBits):
    """One that lies in the files."""

    name: str
    path: Path
    shape: tuple[int, ...]
    form: FormClass
    stored: Mapping[str, Entry]

    @property
    def parts(self) -> Mapping[str, Entry]:
        return self.stored

    @property
    def granule(self) -> int:
        """For `blocks`: reads that begin or end at other rows cost more."""
        return getattr(self.stored["weight"], "granule", 1)

    def rows(self, rows: slice) -> Arrays:
        return {field: _rows(part, rows) for field, part in self.stored.items()}


def joined(entries: Sequence[Entry], config: GPTNeoXConfig, form: FormClass) -> list[Entry]:
    """The tensors of a checkpoint whose weights are in this form, with one for each of them.

    Raises:
        InputError: an array of one is not there, or is of another dtype or shape.
    """
    if config.num_hidden_layers > len(entries):
        return [*entries]  # which do not fit, as is said later
    parts: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        linear, field = _place(entry)
        if field in form.arrays():
            parts.setdefault(linear, {})[field] = entry
    if "scale" in parts.get(HEAD, {}):
        config = dataclasses.replace(config, tie_word_embeddings=False)
    shapes = linears(config)
    for name, shape in shapes.items():
        _check_rows(entries, name, shape[0], parts.get(name, {}), form)
    # Only now, as all sizes of the config are those of files: this takes memory for a row.
    weights = {name: _joined(parts[name], shape, form) for name, shape in shapes.items()}
    kept: dict[str, Entry] = {}
    for entry in entries:
        linear, field = _place(entry)
        is_part = linear in weights and field in form.arrays()
        kept[linear if is_part else entry.name] = weights[linear] if is_part else entry
    return [*kept.values()]


def _place(entry: Entry) -> tuple[str, str]:
    """The weight that a tensor may belong to, as this package calls it, and the tensor's field."""
    layer, _, field = entry.name.rpartition(".")
    return stored_name(f"{layer}.weight") or "", field


def _check_rows(
    entries: Sequence[Entry], name: str, rows: int, found: Mapping[str, Entry], form: FormClass
) -> None:
    lost = [field for field in form.arrays() if field not in found]
    if lost:
        where = entries[0].path.parent if entries else ""
        tensor = f"{name.removesuffix('.weight')}.{lost[0]}"
        raise InputError(f"{where}: {tensor} is missing, of a weight in {form.name}")
    for part in found.values():
        if part.shape[:1] != (rows,):
            raise InputError(
                f"{part.path}: is {shown(list(part.shape), 60)}, of a weight with {rows} rows"
            )


def _joined(found: Mapping[str, Entry], shape: tuple[int, int], form: FormClass) -> StoredWeight:
    row = stored_row(form, shape[1])
    for field, part in found.items():
        own = (shape[0], *row[field].shape[1:])
        if (part.shape, part.dtype) != (own, row[field].dtype):
            raise InputError(
                f"{part.path}: is {shown(list(part.shape), 60)} of {part.dtype.name}, and "
                f"{form.name} has {list(own)} of {row[field].dtype.name} there"
            )
    weight = found["weight"]
    return StoredWeight(weight.name, weight.path, shape, form, found)


def stored_row(form: FormClass, columns: int) -> Arrays:
    """What a file has for a row of so many zeros."""
    return form.to_file(form.encode(np.zeros((1, columns), np.float32)))


def _rows(entry: Entry, rows: slice) -> np.ndarray:
    return entry.read((rows, *(slice(0, size) for size in entry.shape[1:])))
