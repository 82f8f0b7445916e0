"""What a run leaves: PEFT and transformers load it, and what PEFT wrote comes back."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.load_prompt import load_prompt
from neox_eqx.checkpoint.origin import Origin, find
from neox_eqx.checkpoint.save_adapter import save_adapter
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, SoftPrompt, read_prompt
from neox_eqx.model.segment import Segment
from neox_eqx.training.run.result import save_result
from neox_eqx.training.update.trained import Trained, join
from tests.hf_models import hf_logits, hf_model, stack_layers
from tests.training.peft_peers import CONFIG, KINDS, from_peft, our_model, peft_model

TOKENS = np.arange(24).reshape(2, 12)
VALID = np.ones(TOKENS.shape, bool)
PROMPTS = ["prompt", "prefix"]


def ours(kind: str) -> tuple[peft.PeftModel, Trained, GPTNeoX]:
    """Random ones, PEFT's and ours; LoRA of scanned layers."""
    theirs, model = peft_model(KINDS[kind], CONFIG), our_model(CONFIG)
    trained, frozen = from_peft(theirs, KINDS[kind], model)
    if isinstance(trained, GPTNeoX):
        return theirs, stack_layers(trained), stack_layers(frozen)
    return theirs, trained, frozen


def logits(trained: Trained, frozen: GPTNeoX) -> np.ndarray:
    model, prompt = join(trained, frozen)
    past = () if prompt is None else (read_prompt(prompt, model),)
    return np.asarray(_logits(model, jnp.asarray(TOKENS), jnp.asarray(VALID), past))


@jax.jit
def _logits(
    model: GPTNeoX, tokens: jax.Array, valid: jax.Array, past: tuple[Segment, ...]
) -> jax.Array:
    return model.logits(model(tokens, valid, past)[0])


def peft_logits(model: peft.PeftModel) -> np.ndarray:
    mask = torch.tensor(VALID).long()
    with torch.no_grad():
        output = model(input_ids=torch.tensor(TOKENS), attention_mask=mask)
    return output.logits[:, -TOKENS.shape[1] :].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_it_and_gives_our_logits(kind: str, tmp_path: Path) -> None:
    _, trained, frozen = ours(kind)
    save_adapter(trained, tmp_path / "new", config=frozen.config, base_model="a/model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name in transformers; no other
        loaded = peft.PeftModel.from_pretrained(hf_model(CONFIG), tmp_path / "new").eval()
    expected = peft_logits(loaded)
    difference = np.abs(logits(trained, frozen) - expected).max() / np.abs(expected).max()
    # Measured 1.1e-6; without the adapter it would be above 0.5.
    assert difference < 1e-5
    assert np.abs(hf_logits(hf_model(CONFIG), TOKENS, VALID) - expected).max() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_its_files_are_those_that_peft_writes(kind: str, tmp_path: Path) -> None:
    theirs, trained, frozen = ours(kind)
    save_adapter(trained, tmp_path / "ours", config=frozen.config, base_model="a/model")
    with warnings.catch_warnings(action="ignore"):
        theirs.save_pretrained(tmp_path / "theirs")
    tensors, theirs = (
        load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs")
    )
    assert tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == theirs[name].dtype
        assert np.array_equal(tensor, theirs[name])
    config, expected = (
        json.loads((tmp_path / who / "adapter_config.json").read_text())
        for who in ("ours", "theirs")
    )
    if kind == "lora":
        expected["target_modules"].sort()
    expected["base_model_name_or_path"] = "a/model"
    assert config == {name: expected[name] for name in config}


@pytest.mark.parametrize("kind", PROMPTS)
def test_what_peft_wrote_is_read_to_the_bit(kind: str, tmp_path: Path) -> None:
    theirs, trained, frozen = ours(kind)
    with warnings.catch_warnings(action="ignore"):
        theirs.save_pretrained(tmp_path)
    loaded = load_prompt(tmp_path, frozen.config)
    assert type(loaded) is type(trained)
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(trained)))


def test_a_prefix_takes_the_form_of_the_models_segments() -> None:
    """Heads that a mesh adds, or that a TPU has side by side, change nothing."""
    _, prefix, frozen = ours("prefix")
    assert isinstance(prefix, Prefix)
    expected = logits(prefix, frozen)
    beside = dataclasses.replace(stack_layers(frozen), heads_together=2)
    assert read_prompt(prefix, beside).kv.key.shape == (2, 1, 2, 5, 16)
    assert np.abs(logits(prefix, beside) - expected).max() < 1e-5 * np.abs(expected).max()
    wider = model_shapes(frozen.config, jnp.dtype("float32"), stacked=False, heads=6)
    kv = prefix.segment(wider).kv[1]
    assert np.array_equal(kv.value[0, :4], prefix.value[1]) and not np.asarray(kv.key[0, 4:]).any()


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_the_result_of_lora_is_a_model_that_transformers_loads(stored: str, tmp_path: Path) -> None:
    theirs, trained, frozen = ours("lora")
    source = tmp_path / "source"
    hf_model(CONFIG).to(getattr(torch, stored)).save_pretrained(source)
    # As an accelerator computes with it, which the result does not show.
    frozen = jax.tree.map(lambda x: x.astype("bfloat16"), frozen)
    save_result(trained, frozen, tmp_path / "run", source=find(source))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["adapter", "hf"]
    merged = GPTNeoXForCausalLM.from_pretrained(tmp_path / "run" / "hf")
    base = GPTNeoXForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert torch.equal(merged.gpt_neox.embed_in.weight, base.gpt_neox.embed_in.weight)
    assert merged.dtype == torch.float32
    if stored == "float32":
        expected = peft_logits(theirs)
        difference = np.abs(hf_logits(merged, TOKENS, VALID) - expected).max()
        assert difference < 1e-5 * np.abs(expected).max()
    with pytest.raises(InputError, match="is not an empty directory"):
        save_result(trained, frozen, tmp_path / "run", source=find(source))


def test_a_prompt_leaves_an_adapter_alone_and_a_whole_model_none(tmp_path: Path) -> None:
    _, prompt, frozen = ours("prompt")
    save_result(prompt, frozen, tmp_path / "prompt", source=Origin(tmp_path, tmp_path))
    assert [path.name for path in (tmp_path / "prompt").iterdir()] == ["adapter"]
    save_result(frozen, None, tmp_path / "all", source=Origin(tmp_path, tmp_path))
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["hf"]


def edited(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewritten(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, directory / "adapter_model.safetensors")


def replaced(directory: Path, rows: np.ndarray) -> None:
    rewritten(directory, {"prompt_embeddings": rows})


def truncated(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


ROWS = np.ones((5, 32), np.float32)
BROKEN = {
    "no directory": (
        lambda d: d.rename(d.with_name("other")),
        "adapter_config.json: cannot be read",
    ),
    "broken config": (lambda d: (d / "adapter_config.json").write_text("{"), "is not valid JSON"),
    "another kind": (lambda d: edited(d, peft_type="IA3"), "peft_type is 'IA3', and must be"),
    "no kind": (lambda d: edited(d, peft_type=None), "peft_type is None, and must be"),
    "lora": (lambda d: edited(d, peft_type="LORA"), "give it as the model"),
    "hidden size": (lambda d: edited(d, token_dim=64), "token_dim is 64, and the model's 32"),
    "layers": (lambda d: edited(d, num_layers=24), "num_layers is 24, and the model's 2"),
    "heads": (lambda d: edited(d, num_attention_heads=[8]), "num_attention_heads is"),
    "a prefix that is none": (lambda d: edited(d, peft_type="PREFIX_TUNING"), "the model 128"),
    "positions": (lambda d: edited(d, num_virtual_tokens=6), "holds 5 positions, and .* says 6"),
    "no tensor": (lambda d: rewritten(d, {"other": ROWS}), "no matrix named prompt_embeddings"),
    "no matrix": (lambda d: replaced(d, ROWS[0]), "no matrix named prompt_embeddings"),
    "no position": (lambda d: replaced(d, ROWS[:0]), "no matrix named prompt_embeddings"),
    "too wide": (lambda d: replaced(d, np.ones((5, 33), np.float32)), "33 numbers a position"),
    "too long": (
        lambda d: (replaced(d, np.ones((64, 32), np.float32)), edited(d, num_virtual_tokens=64)),
        "has 64 positions, and the model 64 in all",
    ),
    "whole numbers": (lambda d: replaced(d, ROWS.astype(np.int32)), "not numbers in floating"),
    "nan": (lambda d: replaced(d, ROWS * np.nan), "hold NaN or infinity"),
    "truncated": (truncated, "is truncated or corrupt"),
    "pickled": (pickled, "a pickled adapter_model.bin is not read"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_read_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    breaking, message = BROKEN[what]
    config = our_model(CONFIG).config
    prompt = SoftPrompt(jnp.asarray(ROWS))
    save_adapter(prompt, tmp_path / "prompt", config=config, base_model="")
    load_prompt(tmp_path / "prompt", config)
    breaking(tmp_path / "prompt")
    with pytest.raises(InputError, match=message) as raised:
        load_prompt(tmp_path / "prompt", config)
    assert str(raised.value).startswith(str(tmp_path / "prompt"))
    assert "\n" not in str(raised.value)
