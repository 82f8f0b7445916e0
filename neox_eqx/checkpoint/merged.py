"""A stored tensor with the product of two small matrices added as it is read."""

import dataclasses
from pathlib import Path

import numpy as np

from neox_eqx.checkpoint.entry import Entry

# Rows that are multiplied at once, always the same: products of other sizes may differ in the last
# bit, and a tensor is to be the same whatever parts it is read in.
_ROWS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class MergedEntry:
    """W + scale · left right, in float32: of a Linear with LoRA, left is B and right is A."""

    stored: Entry
    left: np.ndarray
    """(out, r)"""
    right: np.ndarray
    """(r, in)"""
    scale: float

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def path(self) -> Path:
        return self.stored.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def granule(self) -> int:
        """For `blocks`: reads that begin or end at other rows cost more."""
        return max(_ROWS, getattr(self.stored, "granule", 1))

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`."""
        first, last, _ = index[0].indices(self.shape[0])
        weight = self.stored.read(index).astype(np.float32)
        if weight.size:
            weight += self._added(first, last)[:, index[1]]
        return weight

    def _added(self, first: int, last: int) -> np.ndarray:
        start = first // _ROWS * _ROWS
        products = [
            np.float32(self.scale) * (self.left[row : row + _ROWS] @ self.right)
            for row in range(start, last, _ROWS)
        ]
        return np.concatenate(products)[first - start : last - start]
