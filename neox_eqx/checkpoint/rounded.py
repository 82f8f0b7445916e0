"""A stored weight that is rounded to few bits as it is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neox_eqx.checkpoint.entry import Entry, blocks
from neox_eqx.checkpoint.few_bits import Arrays, FewBits, FormClass, stored_row
from neox_eqx.checkpoint.names import EMBEDDING, HEAD, linears, stored_name
from neox_eqx.checkpoint.ties import settle_tying
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError


@dataclasses.dataclass(frozen=True)
class RoundedWeight(FewBits):
    """One that lies in the files as numbers, and is rounded at each reading."""

    stored: Entry
    form: FormClass

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.stored.name

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.stored.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.stored.shape

    @property
    def granule(self) -> int:
        """For `blocks`: reads that begin or end at other rows cost more."""
        return max(self.form.rows_together, getattr(self.stored, "granule", 1))

    @property
    def parts(self) -> Mapping[str, Entry]:
        return {field: _Part(self, field) for field in self.form.arrays()}

    def rows(self, rows: slice) -> Arrays:
        """As `FewBits.rows`.

        Raises:
            InputError: there is a number in them that the form has not.
        """
        index, wide = (rows, slice(0, self.shape[1])), np.dtype(np.float32)
        encoded = [
            self._encoded(block)
            for _, block in blocks(self.stored, index, wide, granule=self.form.rows_together)
        ]
        return {field: np.concatenate([own[field] for own in encoded]) for field in encoded[0]}

    def _encoded(self, block: np.ndarray) -> Arrays:
        check_numbers(self.stored, self.form, block)
        arrays = self.form.to_file(self.form.encode(block))
        return {field: array[: len(block)] for field, array in arrays.items()}


@dataclasses.dataclass(frozen=True)
class _Part:
    """One of the arrays of a RoundedWeight, as an `Entry`."""

    whole: RoundedWeight
    field: str

    @property
    def name(self) -> str:
        return f"{self.whole.name.removesuffix('.weight')}.{self.field}"

    @property
    def path(self) -> Path:
        return self.whole.path

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0], *self._row.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._row.dtype

    @property
    def _row(self) -> np.ndarray:
        return stored_row(self.whole.form, self.whole.shape[1])[self.field]

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`."""
        return self.whole.rows(index[0])[self.field][(slice(None), *index[1:])]


def check_numbers(entry: Entry, form: FormClass, block: np.ndarray) -> None:
    """Refuses a part of a tensor that has what cannot be rounded.

    Raises:
        InputError: there is NaN or infinity, or a number that is too large for the form.
    """
    most = np.abs(block).max(initial=0)
    if not np.isfinite(most):
        raise InputError(
            f"{entry.path}: {entry.name} holds NaN or infinity, which {form.name} has not; "
            "leave quantize out"
        )
    if most > form.largest:
        raise InputError(
            f"{entry.path}: {entry.name} holds {most:.6g} in absolute value, and {form.name} has "
            f"at most {form.largest:.6g}; leave quantize out"
        )


def rounded_entries(
    entries: Sequence[Entry], config: GPTNeoXConfig, form: FormClass
) -> list[Entry]:
    """The tensors of a checkpoint, with the weights of its Linears rounded as they are read.

    A head that the config ties to the embedding is not rounded, where it has the same numbers.
    """
    tensors = {stored_name(entry.name): entry for entry in entries}
    head, embedding = tensors.get(HEAD), tensors.get(EMBEDDING)
    if head and embedding and head.shape == embedding.shape:
        of_parameters = {name: entry for name, entry in tensors.items() if name is not None}
        config = settle_tying(config, of_parameters, np.dtype(np.float32))
    names = linears(config)
    return [
        RoundedWeight(own, form) if stored_name(own.name) in names and len(own.shape) == 2 else own
        for own in entries
    ]
