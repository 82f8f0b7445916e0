"""The names of `neox_eqx.__all__` but DEMO_MODEL, imported when one is first used."""

from neox_eqx.checkpoint.load import load as load
from neox_eqx.checkpoint.save import save as save
from neox_eqx.config import GPTNeoXConfig as GPTNeoXConfig
from neox_eqx.errors import InputError as InputError
from neox_eqx.generation.chunks.chunk import Chunk as Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult as ChunkResult
from neox_eqx.generation.chunks.prefix_cache import PrefixCache as PrefixCache
from neox_eqx.generation.chunks.read_write import generate as generate
from neox_eqx.generation.chunks.read_write import prefill as prefill
from neox_eqx.generation.options.generation_options import GenerationOptions as GenerationOptions
from neox_eqx.model.neox import GPTNeoX as GPTNeoX
from neox_eqx.presets import PRESETS as PRESETS
from neox_eqx.rope import RopeParameters as RopeParameters
from neox_eqx.scoring.texts import TextScore as TextScore
from neox_eqx.scoring.texts import score_texts as score_texts
from neox_eqx.sharding.distributed import initialize as initialize
from neox_eqx.sharding.mesh import make_mesh as make_mesh
from neox_eqx.text.completion import Completion as Completion
from neox_eqx.text.completion import Event as Event
from neox_eqx.text.conversation import Conversation as Conversation
from neox_eqx.text.generator import TextGenerator as TextGenerator
from neox_eqx.text.words import token_bytes as token_bytes
