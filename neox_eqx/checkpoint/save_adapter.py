"""What was trained beside a model, as a directory that the PEFT package loads."""

import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from neox_eqx.checkpoint.adapter_config import FORM
from neox_eqx.checkpoint.files import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_FILES
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.destination import new_directory
from neox_eqx.model.adapt import adapted
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, Prompt
from neox_eqx.sharding.distributed import is_first

CONFIG, TENSORS = ADAPTER_CONFIG, ADAPTER_FILES[0]
EMBEDDINGS = "prompt_embeddings"
"""The one tensor of a soft prompt, and of a prefix too."""

Trained = TypeVar("Trained")


def save_adapter(
    trained: GPTNeoX | Prompt,
    directory: str | Path,
    *,
    config: GPTNeoXConfig,
    base_model: str,
    revision: str | None = None,
    quantize: str | None = None,
) -> None:
    """Writes the A and B of a model with LoRA, a soft prompt or a prefix in PEFT's format.

    `config` is that of the base, and `base_model` is where PEFT finds the base: a directory or a
    Hub id, with its `revision`. `quantize` is the form in few bits that the base was in, which
    stands in a file of its own that PEFT does not read. On several hosts all processes call it and
    the first writes. `directory` must be absent or empty, and comes into being whole.

    Raises:
        InputError: the directory holds something, or cannot be written.
    """
    trained = gathered(trained)
    if not is_first():
        return
    kind, tensors = _lora(trained) if isinstance(trained, GPTNeoX) else _prompt(trained, config)
    both = dict(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        revision=revision,
        inference_mode=True,
    )
    with new_directory(Path(directory)) as partial:
        text = json.dumps(both | kind, indent=2) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")
        if quantize is not None:
            text = json.dumps({FORM: quantize}, indent=2) + "\n"
            (partial / ADAPTER_BASE).write_text(text, encoding="utf-8")
        layout = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
        write_tensors(partial / TENSORS, layout, tensors.values())


def gathered(trained: Trained) -> Trained:
    """The whole of it in every process; all call this together, each with a part of it."""
    if jax.process_count() == 1:
        return trained
    return multihost_utils.process_allgather(trained, tiled=True)


def lora_tensors(trained: GPTNeoX) -> dict[str, np.ndarray]:
    """The A and B of each layer, as `gpt_neox.layers.0.attention.dense.lora_A.weight`."""
    tensors: dict[str, np.ndarray] = {}
    for leaf in parameters(trained):
        array = np.asarray(leaf.array)
        layers = array if leaf.stacked else array[None]
        tensors.update(zip(leaf.names, layers, strict=True))
    return tensors


def _lora(trained: GPTNeoX) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    tensors = {f"base_model.model.{name}": own for name, own in lora_tensors(trained).items()}
    lora = adapted(trained)[0]
    targets = {name.split(".")[-3] for name in tensors}  # before lora_A.weight
    own = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.use_rslora,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": sorted(targets),
    }
    return own, tensors


def _prompt(prompt: Prompt, config: GPTNeoXConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A row for each position: its embedding, or keys and values of one layer after another."""
    if isinstance(prompt, Prefix):
        both = np.stack([prompt.key, prompt.value], axis=1)
        rows = both.transpose(3, 0, 1, 2, 4).reshape(both.shape[3], -1)
    else:
        rows = np.asarray(prompt.embeddings)
    own = {
        "peft_type": "PREFIX_TUNING" if isinstance(prompt, Prefix) else "PROMPT_TUNING",
        "num_virtual_tokens": len(rows),
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }
    return own, {EMBEDDINGS: rows}
