"""A checkpoint with its parameters in another dtype, in few bits, or as numbers again."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.checkpoint.names import stored_name
from neox_eqx.checkpoint.rounded import rounded_entries
from neox_eqx.config import QUANTIZATION, quantization_config
from neox_eqx.convert.source import Source
from neox_eqx.model.formats import form_of


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
        CastEntry(entry, wanted) if _is_cast(entry, wanted) else entry for entry in source.entries
    ]
    return dataclasses.replace(source, entries=entries)


def _is_cast(entry: Entry, wanted: np.dtype) -> bool:
    is_parameter = stored_name(entry.name) is not None
    return is_parameter and entry.dtype != wanted and not isinstance(entry, FewBits)


def rounded(source: Source, quantize: str) -> Source:
    """`source` with the weights of its Linears in this form.

    Raises:
        InputError: there is no form of this name, or they are in another one.
    """
    if source.form is not None:
        source.checkpoint.form_to_hold(quantize)
        return source
    form = form_of(quantize)
    entries = rounded_entries(source.entries, source.checkpoint.config, form)
    stated = source.config_json | {QUANTIZATION: quantization_config(form.name)}
    return dataclasses.replace(source, entries=entries, config_json=stated)


def in_numbers(source: Source) -> Source:
    """`source` with the float32 numbers that its weights in few bits stand for.

    Its config.json does not say any more that they are in few bits.
    """
    if source.form is None and not any(isinstance(own, FewBits) for own in source.entries):
        return source
    float32 = np.dtype(np.float32)
    entries = [
        CastEntry(own, float32) if isinstance(own, FewBits) else own for own in source.entries
    ]
    gone = (QUANTIZATION, "dtype", "torch_dtype")  # and float32 is stated, being the most common
    stated = {key: value for key, value in source.config_json.items() if key not in gone}
    return dataclasses.replace(source, entries=entries, config_json=stated)
