"""A tiny model in each layout of Hugging Face's, and what is trained beside it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from safetensors.numpy import save_file

from neox_eqx import DEMO_MODEL

CONFIG: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 520,  # of which the tokenizer has 512
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "layer_norm_eps": 1e-05,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "rotary_pct": 1.0,
    "rotary_emb_base": 10000,
    "torch_dtype": "float32",
}

_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def tensors() -> dict[str, np.ndarray]:
    """Those of the model that CONFIG describes, by Hugging Face's names."""
    random = np.random.default_rng(0)
    size, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "gpt_neox.embed_in.weight": (CONFIG["vocab_size"], size),
        "embed_out.weight": (CONFIG["vocab_size"], size),
        "gpt_neox.final_layer_norm.weight": (size,),
        "gpt_neox.final_layer_norm.bias": (size,),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (size,),
            "post_attention_layernorm": (size,),
            "attention.query_key_value": (3 * size, size),
            "attention.dense": (size, size),
            "mlp.dense_h_to_4h": (wide, size),
            "mlp.dense_4h_to_h": (size, wide),
        }.items():
            shapes[f"gpt_neox.layers.{layer}.{name}.weight"] = shape
            shapes[f"gpt_neox.layers.{layer}.{name}.bias"] = shape[:1]
    return {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(directory: Path) -> None:
    """The model in Hugging Face's layout, with a tokenizer."""
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), model / "model.safetensors", metadata={"format": "pt"})
    settings = {"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 3}
    (model / "generation_config.json").write_text(json.dumps(settings))
    shutil.copy(DEMO_MODEL / "tokenizer.json", model)
    words = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(words | {"chat_template": _TEMPLATE}))


def write_dressed(directory: Path) -> None:
    """With the other files that a tokenizer may come with."""
    write_model(directory)
    model = directory / "model"
    special = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}, "pad_token": "<pad>"}
    (model / "special_tokens_map.json").write_text(json.dumps(special))
    (model / "added_tokens.json").write_text(json.dumps({"<new>": 512, "<pad>": 513}))


def write_sentence_piece(directory: Path) -> None:
    """With SentencePiece's model alone, as rinna's are."""
    write_model(directory)
    model = directory / "model"
    (model / "tokenizer.json").unlink()
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["Two cats and three dogs went home.", "How many are they?"] * 20),
        model_writer=pieces,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (model / "tokenizer.model").write_bytes(pieces.getvalue())
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


def write_sharded(directory: Path) -> None:
    write_model(directory)
    model, weight_map = directory / "model", {}
    (model / "model.safetensors").unlink()
    names = sorted(tensors())
    for number, shard in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors()[name] for name in shard}, model / file)
        weight_map |= dict.fromkeys(shard, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_bin(directory: Path, *, is_zip: bool) -> None:
    write_model(directory)
    (directory / "model" / "model.safetensors").unlink()
    values = {name: torch.from_numpy(value) for name, value in tensors().items()}
    path = directory / "model" / "pytorch_model.bin"
    torch.save(values, path, _use_new_zipfile_serialization=is_zip)


def write_adapter(directory: Path) -> None:
    """A model, and LoRA on it as PEFT writes it."""
    write_model(directory)
    (directory / "adapter").mkdir()
    settings = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "model"},
        **{"r": 2, "lora_alpha": 4.0, "lora_dropout": 0.0, "use_rslora": False, "bias": "none"},
        **{"target_modules": ["query_key_value", "dense"], "init_lora_weights": True},
        **{"rank_pattern": {"attention.dense": 1}, "alpha_pattern": {"attention.dense": 3.0}},
        **{"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None},
        **{"modules_to_save": None, "fan_in_fan_out": False, "inference_mode": True},
    }
    (directory / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    random, size = np.random.default_rng(1), CONFIG["hidden_size"]
    values = {}
    for name, (out, rank) in {"query_key_value": (3 * size, 2), "dense": (size, 1)}.items():
        module = f"base_model.model.gpt_neox.layers.0.attention.{name}"
        values[f"{module}.lora_A.weight"] = random.normal(0, 0.2, (rank, size)).astype(np.float32)
        values[f"{module}.lora_B.weight"] = random.normal(0, 0.2, (out, rank)).astype(np.float32)
    save_file(values, directory / "adapter" / "adapter_model.safetensors")


def write_soft_prompt(directory: Path) -> None:
    """A model, and a soft prompt of it as PEFT writes it."""
    write_model(directory)
    (directory / "adapter").mkdir()
    settings = {
        **{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2},
        **{"base_model_name_or_path": "model", "token_dim": CONFIG["hidden_size"]},
        **{"num_layers": 1, "num_attention_heads": 2, "num_transformer_submodules": 1},
    }
    (directory / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    rows = np.ones((2, CONFIG["hidden_size"]), np.float32)
    save_file({"prompt_embeddings": rows}, directory / "adapter" / "adapter_model.safetensors")
