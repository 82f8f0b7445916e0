"""One tensor made of parts that several ranks hold, or of several parts of one tensor."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neox_eqx.checkpoint.entry import Entry


@dataclasses.dataclass(frozen=True)
class Run:
    """The part of an entry from `first` to before `last`, along the axis that is joined."""

    entry: Entry
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Joined:
    """Runs one after another along `axis`, as one tensor; a single run may be a part of one."""

    name: str
    axis: int
    runs: tuple[Run, ...]

    @classmethod
    def whole(cls, name: str, axis: int, entries: Sequence[Entry]) -> "Joined":
        """All of these tensors, one after another."""
        return cls(name, axis, tuple(Run(entry, 0, entry.shape[axis]) for entry in entries))

    @property
    def path(self) -> Path:
        return self.runs[0].entry.path

    @property
    def dtype(self) -> np.dtype:
        return self.runs[0].entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        size = sum(run.last - run.first for run in self.runs)
        shape = self.runs[0].entry.shape
        return (*shape[: self.axis], size, *shape[self.axis + 1 :])

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`. Only what `index` asks for is read of each run."""
        bounds = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
        result = np.empty([max(stop - start, 0) for start, stop, _ in bounds], self.dtype)
        along = np.moveaxis(result, self.axis, 0)
        start, stop, _ = bounds[self.axis]
        before = 0
        for run in self.runs:
            size = run.last - run.first
            first, last = max(start - before, 0), min(stop - before, size)
            if first < last:
                part = list(index)
                part[self.axis] = slice(run.first + first, run.first + last)
                values = np.moveaxis(run.entry.read(tuple(part)), self.axis, 0)
                along[before + first - start : before + last - start] = values
            before += size
        return result


@dataclasses.dataclass(frozen=True)
class Summed:
    """The sum of tensors divided by `divisor`, computed in float32 or wider and rounded once.

    A tensor of -0 adds nothing, not even to a sign. Where all tensors but one are such, the bits of
    that one stay as they are.
    """

    name: str
    entries: tuple[Entry, ...]
    divisor: int = 1

    @property
    def path(self) -> Path:
        return self.entries[0].path

    @property
    def dtype(self) -> np.dtype:
        return self.entries[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries[0].shape

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        parts = [entry.read(index) for entry in self.entries]
        nothing = np.full_like(parts[0], -0.0).tobytes()
        some = [part for part in parts if part.tobytes() != nothing]
        if len(some) <= 1 and self.divisor == 1:
            return (some or parts)[0]
        wide = np.promote_types(self.dtype, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            total = functools.reduce(np.add, (part.astype(wide) for part in parts))
            return (total / wide.type(self.divisor)).astype(self.dtype)


def are_equal(entries: Sequence[Entry]) -> bool:
    """Whether tensors that are small enough to be held in memory have the same bits."""
    bits = [entry.read(tuple(slice(None) for _ in entry.shape)).tobytes() for entry in entries]
    return all(some == others for some, others in itertools.pairwise(bits))
