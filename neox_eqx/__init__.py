"""GPT-NeoX models in JAX with Equinox: what a notebook needs, from a checkpoint to text.

Examples:
    >>> generator = TextGenerator.load(DEMO_MODEL)
    >>> question = "Tom has 3 boxes with 4 apples each. How many apples does Tom have?"
    >>> completion, = generator.generate([question])
    >>> completion.finish_reason
    'eos'
"""
# ruff: noqa: F403, F405

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neox_eqx.public import *
else:

    def __getattr__(name: str) -> object:
        """Imports what needs JAX, which takes a second, when the first such name is used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("neox_eqx.public"), name)


__version__ = "0.1.0"

DEMO_MODEL = Path(__file__).parent / "demo_model"
"""The directory of the bundled checkpoint."""

__all__ = [
    "DEMO_MODEL",
    "PRESETS",
    "Chunk",
    "ChunkResult",
    "Completion",
    "Conversation",
    "Event",
    "GPTNeoX",
    "GPTNeoXConfig",
    "GenerationOptions",
    "InputError",
    "PrefixCache",
    "RopeParameters",
    "TextGenerator",
    "TextScore",
    "generate",
    "initialize",
    "load",
    "make_mesh",
    "prefill",
    "save",
    "score_texts",
    "token_bytes",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
