"""A checkpoint as it is opened: its config, and its tensors before any of them is read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from neox_eqx.checkpoint.adapter import merged
from neox_eqx.checkpoint.adapter_config import read_base_form
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.few_bits import joined
from neox_eqx.checkpoint.files import read_entries
from neox_eqx.checkpoint.origin import Origin
from neox_eqx.checkpoint.rounded import rounded_entries
from neox_eqx.config import GPTNeoXConfig, weights_form
from neox_eqx.errors import InputError
from neox_eqx.model.formats import Form, form_name, form_of
from neox_eqx.model.quantized import QuantizedLinear
from neox_eqx.sharding.distributed import agreed
from neox_eqx.small_files import read_json


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The config and the tensors of a model, whose values are still on the disk."""

    directory: Path
    """What errors name."""
    config: GPTNeoXConfig
    entries: Sequence[Entry]
    """The tensors, with those of a LoRA adapter merged into them."""
    form: str | None = None
    """The name of the form in few bits that the weights of the files are in."""
    has_adapter: bool = False

    @classmethod
    def open(cls, origin: Origin) -> "Checkpoint":
        """The checkpoint at `origin`, in every process of the run.

        Raises:
            InputError: it is absent or broken, in any process.
        """
        with agreed():
            return cls.open_here(origin)

    @classmethod
    def open_here(cls, origin: Origin) -> "Checkpoint":
        """As `open`, in this process alone."""
        shape = cls.without_tensors(origin)
        entries: list[Entry] = read_entries(origin.directory)
        if shape.form is not None:
            entries = joined(entries, shape.config, form_of(shape.form))
        opened = dataclasses.replace(shape, entries=entries)
        if origin.adapter is None:
            return opened
        base = opened.rounded(read_base_form(origin.adapter)).entries
        both = merged(origin.adapter, base, tied=shape.config.tie_word_embeddings)
        return dataclasses.replace(opened, entries=both)

    @classmethod
    def without_tensors(cls, origin: Origin) -> "Checkpoint":
        """What config.json alone says.

        Raises:
            InputError: it is absent or broken.
        """
        path = origin.directory / "config.json"
        config, form = GPTNeoXConfig.from_file(path), weights_form(read_json(path))
        return cls(origin.directory, config, (), form, origin.adapter is not None)

    def rounded(self, quantize: str | None) -> "Checkpoint":
        """The same with the numbers that its weights become in a form, as if the files had them.

        Raises:
            InputError: the files have them in another form.
        """
        if quantize is None or self.form is not None:
            self.form_to_hold(quantize)
            return self
        entries = rounded_entries(self.entries, self.config, form_of(quantize))
        return dataclasses.replace(self, entries=entries)

    def form_to_hold(self, asked: Form | None) -> type[QuantizedLinear] | None:
        """The form in few bits that the model is to have its weights in; None for floating point.

        If none is asked for it is that of the files, and with a LoRA adapter, which is added to
        numbers, None.

        Raises:
            InputError: the files have them in another one.
        """
        if asked is None:
            return form_of(self.form) if self.form and not self.has_adapter else None
        if self.form is not None and form_name(asked) != self.form:
            raise InputError(
                f"{self.directory}: has its weights in {self.form}, and quantize asks for "
                f"{form_name(asked)}; leave it out, or take the checkpoint that this was made from"
            )
        return form_of(asked)
