"""A soft prompt or a prefix from a directory that this package or PEFT wrote."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.adapter_config import SOFT_PROMPTS
from neox_eqx.checkpoint.safetensors_file import read_entries
from neox_eqx.checkpoint.save_adapter import CONFIG, EMBEDDINGS, TENSORS
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.prompt import Prefix, Prompt, SoftPrompt
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json


def agreed_prompt(directory: str | Path, config_file: Path) -> Prompt:
    """As `load_prompt` for the model of a config.json, with the same result in all processes.

    Raises:
        InputError: as `load_prompt`, in any process; or hosts hold different ones.
    """
    with agreed():
        prompt = load_prompt(directory, GPTNeoXConfig.from_file(config_file))
    arrays = map(np.asarray, jax.tree.leaves(prompt))
    check_equal(f"{directory}", [array.tobytes() for array in arrays])
    return prompt


def load_prompt(directory: str | Path, config: GPTNeoXConfig) -> Prompt:
    """Reads the soft prompt or the prefix that is to stand before texts of this model.

    Raises:
        InputError: it is of another model, holds NaN or infinity, or is incomplete or corrupt; or
            it is of another kind, such as LoRA, which is a model of its own.
    """
    directory = Path(directory)
    own = read_json(directory / CONFIG)
    kind = own.get("peft_type")
    if kind == "LORA":
        raise InputError(f"{directory}: is a LoRA adapter and no soft prompt; give it as the model")
    if kind not in SOFT_PROMPTS:
        raise InputError(
            f"{directory / CONFIG}: peft_type is {shown(kind, 40)}, and must be PROMPT_TUNING or "
            "PREFIX_TUNING"
        )
    _check_model(directory / CONFIG, own, config)
    rows = _read(directory / TENSORS, own)
    size = config.hidden_size
    wanted = size if kind == "PROMPT_TUNING" else 2 * config.num_hidden_layers * size
    if rows.shape[1] != wanted:
        raise InputError(
            f"{directory / TENSORS}: has {rows.shape[1]} numbers a position, and the model "
            f"{wanted}; it belongs to another model"
        )
    if len(rows) >= config.context_length:
        raise InputError(
            f"{directory}: has {len(rows)} positions, and the model {config.context_length} in all"
        )
    if kind == "PROMPT_TUNING":
        return SoftPrompt(jnp.asarray(rows))
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    both = rows.reshape(len(rows), layers, 2, heads, size // heads).transpose(2, 1, 3, 0, 4)
    return Prefix(jnp.asarray(both[0]), jnp.asarray(both[1]))


def _check_model(path: Path, own: dict[str, Any], config: GPTNeoXConfig) -> None:
    expected = {
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
    }
    for name, value in expected.items():
        if own.get(name, value) != value:
            raise InputError(
                f"{path}: {name} is {shown(own[name], 40)}, and the model's {value}; it belongs to "
                "another model"
            )


def _read(path: Path, own: dict[str, Any]) -> np.ndarray:
    """The rows of all positions in float32."""
    if not path.is_file() and path.with_suffix(".bin").is_file():
        raise InputError(f"{path}: is missing; a pickled {path.stem}.bin is not read")
    entries = {entry.name: entry for entry in read_entries(path)}
    entry = entries.get(EMBEDDINGS)
    if entry is None or len(entry.shape) != 2 or 0 in entry.shape:
        raise InputError(f"{path}: holds no matrix named {EMBEDDINGS}; get the file again")
    positions = own.get("num_virtual_tokens", entry.shape[0])
    if positions != entry.shape[0]:
        raise InputError(
            f"{path}: holds {entry.shape[0]} positions, and {CONFIG} says {shown(positions, 40)}"
        )
    if not jnp.issubdtype(entry.dtype, jnp.floating):
        raise InputError(f"{path}: {EMBEDDINGS} are not numbers in floating point")
    rows = entry.read((slice(None), slice(None))).astype(np.float32)
    if not np.isfinite(rows).all():
        raise InputError(f"{path}: {EMBEDDINGS} hold NaN or infinity")
    return rows
