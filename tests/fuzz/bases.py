"""The valid files that cases begin with: a tiny model in every layout, and what goes with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from neox_eqx import DEMO_MODEL
from tests.fuzz.case import Case
from tests.fuzz.runner import Runner

CONFIG: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 512,
    "hidden_size": 8,
    "num_hidden_layers": 2,
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
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), model / "model.safetensors", metadata={"format": "pt"})
    settings = {"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 3}
    (model / "generation_config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, model)


def write_texts(directory: Path) -> None:
    (directory / "texts.txt").write_text("Tom has 3 apples.\nTwo cats went home.\n")
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "2?", "answer": "2"}]
    (directory / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_bases(runner: Runner) -> None:
    """Makes all of them, those of other layouts with the project's own commands."""
    runner.add_base("model", write_model)
    runner.add_base("texts", write_texts)


def _made_by(runner: Runner, name: str, program: str, args: tuple[str, ...], **case: Any) -> None:
    """The output `name` of a command, which must succeed, as a base of that name."""
    outcome = runner.run(Case("base", program, args, **case))
    assert outcome.status == 0, outcome.stderr
    runner.add_base(
        name, lambda directory: shutil.copytree(runner.directory / name, directory / name)
    )
