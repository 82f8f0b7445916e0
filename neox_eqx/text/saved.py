"""A model with all that its texts need, as a checkpoint directory."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.hub import GENERATION_CONFIG
from neox_eqx.checkpoint.save import save
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX


def save_with_companions(
    model: GPTNeoX, directory: str | Path, companions: Sequence[Path], defaults: Mapping[str, Any]
) -> None:
    """As `save`, with the files of the tokenizer and its template, and the settings `defaults`.

    Raises:
        InputError: as `save`; or there are no such files.
    """
    if not companions:
        raise InputError(
            "a generator that is not loaded from a directory has no files of a tokenizer to save; "
            "save its model with neox_eqx.save and them as companions"
        )
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / GENERATION_CONFIG
        # Old checkpoints have them in config.json, of which only the architecture is kept.
        if defaults and GENERATION_CONFIG not in {path.name for path in companions}:
            settings.write_text(json.dumps(dict(defaults), indent=2) + "\n", encoding="utf-8")
            companions = [*companions, settings]
        save(model, directory, companions)
