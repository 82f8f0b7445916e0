"""A checkpoint as it is opened: its config, and its tensors before any of them is read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from neox_eqx.checkpoint.adapter import merged
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.files import read_entries
from neox_eqx.checkpoint.origin import Origin
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.sharding.distributed import agreed


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The config and the tensors of a model, whose values are still on the disk."""

    directory: Path
    """What errors name."""
    config: GPTNeoXConfig
    entries: Sequence[Entry]
    """The tensors, with those of a LoRA adapter merged into them."""

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
        config = GPTNeoXConfig.from_file(origin.directory / "config.json")
        entries = read_entries(origin.directory)
        if origin.adapter is not None:
            entries = merged(origin.adapter, entries, tied=config.tie_word_embeddings)
        return cls(origin.directory, config, entries)
