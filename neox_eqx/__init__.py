"""GPT-NeoX models in JAX with Equinox: what a notebook needs, from a checkpoint to text.

Example:
    >>> generator = TextGenerator.load(DEMO_MODEL)
    >>> question = "Tom has 3 boxes with 4 apples each. How many apples does Tom have?"
    >>> completion, = generator.generate([question])
    >>> completion.finish_reason
    'eos'
"""

from pathlib import Path

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.save import save
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.chunk import Chunk
from neox_eqx.generation.chunk_result import ChunkResult
from neox_eqx.generation.chunks import generate, prefill
from neox_eqx.generation.options import GenerationOptions
from neox_eqx.generation.prefix_cache import PrefixCache
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.presets import PRESETS
from neox_eqx.rope import RopeParameters
from neox_eqx.scoring.texts import TextScore, score_texts
from neox_eqx.sharding.distributed import initialize
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.text.completion import Completion, Event
from neox_eqx.text.conversation import Conversation
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.words import token_bytes

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
