"""The valid files that cases begin with: a tiny model in every layout, and what goes with it."""

import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import sentencepiece
import torch
from safetensors.numpy import save_file

from neox_eqx import DEMO_MODEL
from tests.fuzz.case import Case, Edit
from tests.fuzz.runner import Runner

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


def _write_dressed(directory: Path) -> None:
    """With the other files that a tokenizer may come with."""
    write_model(directory)
    model = directory / "model"
    special = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}, "pad_token": "<pad>"}
    (model / "special_tokens_map.json").write_text(json.dumps(special))
    (model / "added_tokens.json").write_text(json.dumps({"<new>": 512, "<pad>": 513}))


def _write_sentence_piece(directory: Path) -> None:
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


def _write_sharded(directory: Path) -> None:
    write_model(directory)
    model, weight_map = directory / "model", {}
    (model / "model.safetensors").unlink()
    names = sorted(tensors())
    for number, shard in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors()[name] for name in shard}, model / file)
        weight_map |= dict.fromkeys(shard, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _write_bin(directory: Path, *, is_zip: bool) -> None:
    write_model(directory)
    (directory / "model" / "model.safetensors").unlink()
    values = {name: torch.from_numpy(value) for name, value in tensors().items()}
    path = directory / "model" / "pytorch_model.bin"
    torch.save(values, path, _use_new_zipfile_serialization=is_zip)


def _write_texts(directory: Path) -> None:
    """What most commands read beside a model."""
    (directory / "texts.txt").write_text("Tom has 3 apples.\nTwo cats went home.\n")
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "2?", "answer": "2"}]
    _write_lines(directory / "data.jsonl", *rows)
    said = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]
    _write_lines(directory / "messages.jsonl", {"messages": said[:1]})
    _write_lines(directory / "prompts.jsonl", {"prompt": "Tom has", "stop": ["e"]})
    _write_lines(directory / "chats.jsonl", {"messages": said}, {"messages": said})


def _write_prompts(directory: Path) -> None:
    write_model(directory)
    (directory / "prompts.txt").write_text("Tom has\nTwo cats\n")
    options = {
        **{"temperature": 0.5, "top_k": 3, "seed": 1, "num_samples": 2, "max_new_tokens": 2},
        **{"logit_bias": {"3": 1.5}, "bad_words": ["x", [5, 6]], "suppress_tokens": [7]},
        **{"early_stopping": "never", "num_beams": 1, "exponential_decay_length_penalty": [1, 1.1]},
    }
    said = [{"role": "user", "content": "How many?", "context": "Two cats."}]
    _write_lines(directory / "prompts.jsonl", {"prompt": "Tom"}, {"prompt": "Two", **options})
    _write_lines(directory / "prompts.messages.jsonl", {"messages": said, "seed": 2})
    (directory / "scored.txt").write_text("Tom has 3 apples.\nTwo cats went home.\n")
    _write_lines(
        directory / "scored.jsonl", {"text": "Two"}, {"prompt": "Tom", "completion": " has"}
    )
    (directory / "bias.json").write_text(json.dumps({"3": 1.5, "4": -100, "511": 0}))


def _write_data(directory: Path) -> None:
    """Training data in each of its forms."""
    write_model(directory)
    rows = [{"instruction": f"Add {n}.", "input": "1", "output": f"{n + 1}"} for n in range(3)]
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Two."}]
    _write_lines(directory / "data.rows.jsonl", *rows)
    _write_lines(directory / "data.text.jsonl", {"text": "Two cats."}, {"text": "Three dogs."})
    _write_lines(directory / "data.sharegpt.jsonl", {"conversations": turns})
    (directory / "data.array.json").write_text(json.dumps(rows))
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    pyarrow.parquet.write_table(table, directory / "data.parquet")


def _write_lines(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_bases(runner: Runner) -> None:
    """Makes all of them, those of other layouts and of runs with the project's own commands."""
    for name, write in (
        ("model", write_model),
        ("dressed", _write_dressed),
        ("sentencepiece", _write_sentence_piece),
        ("sharded", _write_sharded),
        ("bin", partial(_write_bin, is_zip=True)),
        ("old bin", partial(_write_bin, is_zip=False)),
        ("texts", _write_texts),
        ("prompts", _write_prompts),
        ("data", _write_data),
    ):
        runner.add_base(name, write)
    for to in ("native", "neox"):
        _add_made(runner, to, "out", "model", "convert_params.py", *_CONVERT, "--to", to)
    for program, options in (("score.py", "--input"), ("generate.py", "--prompt-file")):
        _add_rows(runner, program, options)
    _add_made(runner, "run", "out", "out", "train.py", *TRAIN)
    for name, option in (("adapter", "--lora-rank"), ("soft prompt", "--prompt-tokens")):
        _add_made(runner, name, "out/adapter", "adapter", "train.py", *TRAIN, option, "2")


_CONVERT = ("model", "out", "--no-verify")
TRAIN = (
    *("--model", "model", "--data", "data.jsonl", "--output", "out", "--steps", "1"),
    *("--batch-size", "1", "--wandb-mode", "disabled"),
)


def _add_rows(runner: Runner, program: str, option: str) -> None:
    """The rows of a run that could not write its output as a whole."""
    args = ("--model", "model", option, "texts.txt", "--output", "out.jsonl")
    hindered = (Edit(".out.jsonl.partial", "directory"),)
    outcome = runner.run(Case("base", program, args, ("model", "texts"), hindered))
    rows = runner.directory / "out.jsonl.partial"
    assert outcome.status == 2 and rows.is_file(), outcome.stderr

    def write(directory: Path) -> None:
        write_model(directory)
        shutil.copy(rows, directory)

    runner.add_base(f"rows of {program}", write)


def _add_made(runner: Runner, name: str, made: str, kept: str, program: str, *args: str) -> None:
    """What a command makes of the model as a base, which has it as `kept`."""
    outcome = runner.run(Case("base", program, args, ("model", "texts")))
    assert outcome.status == 0, outcome.stderr

    def write(directory: Path) -> None:
        if kept != "model":
            shutil.copytree(runner.bases["model"], directory, dirs_exist_ok=True)
        shutil.copytree(runner.directory / made, directory / kept)

    runner.add_base(name, write)
