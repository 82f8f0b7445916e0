"""A checkpoint whose parameters are of another dtype than they are stored in."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.names import stored_name
from neox_eqx.convert.source import Source


@dataclasses.dataclass(frozen=True)
class CastEntry:
    """A tensor rounded to `dtype`, to the nearest and in a tie to the even neighbour."""

    stored: Entry
    dtype: np.dtype

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def path(self) -> Path:
        return self.stored.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Entry.read`. What is too large for float16 becomes infinite, as in torch."""
        with np.errstate(over="ignore"):
            return self.stored.read(index).astype(self.dtype)


def cast(source: Source, dtype: str) -> Source:
    """`source` with its parameters in `dtype`; buffers and, for "same", all stay as stored."""
    if dtype == "same":
        return source
    wanted = jnp.dtype(dtype)
    entries = [
        CastEntry(entry, wanted)
        if stored_name(entry.name) is not None and entry.dtype != wanted
        else entry
        for entry in source.entries
    ]
    return dataclasses.replace(source, entries=entries)
