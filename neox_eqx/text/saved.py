"""A model with all that its texts need, as a checkpoint directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.hub import GENERATION_CONFIG
from neox_eqx.checkpoint.save import save
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.text.generation_config import settings_file


def save_with_companions(
    model: GPTNeoX, directory: str | Path, companions: Sequence[Path], defaults: Mapping[str, Any]
) -> None:
    """As `save`, with the tokenizer's files, its template, and `defaults` for generation.

    Raises:
        InputError: as `save`; or there are no such files.
    """
    if not companions:
        raise InputError(
            "a generator that is not loaded from a directory has no files of a tokenizer to save; "
            "save its model with neox_eqx.save and them as companions"
        )
    has_file = any(path.name == GENERATION_CONFIG for path in companions)
    save(model, directory, [*companions, *settings_file({} if has_file else defaults)])
