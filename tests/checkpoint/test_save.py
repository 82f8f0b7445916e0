"""What is saved is what transformers loads, bit for bit, or it is not there at all."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoConfig, GPTNeoXForCausalLM

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.save import save
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from tests.checkpoint.checkpoints import assert_same_bits
from tests.hf_models import FAMILIES, from_torch, hf_logits, hf_model, stack_layers


@pytest.fixture
def model() -> GPTNeoX:
    config = GPTNeoXConfig(64, 32, 2, 4, 128, eos_token_id=(2, 5))
    return GPTNeoX.init(config, key=jax.random.key(0))


def same_state(ours: GPTNeoXForCausalLM, theirs: GPTNeoXForCausalLM) -> bool:
    states = ours.state_dict(), theirs.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", ["pythia-70m", "line-3.6b", "no-attention-bias", "llama3"])
def test_transformers_loads_the_same_parameters_and_gives_the_same_logits(
    tmp_path: Path, name: str, stacked: bool
) -> None:
    theirs = hf_model(FAMILIES[name])
    ours = from_torch(theirs, GPTNeoXConfig.from_hf(FAMILIES[name]))
    save(stack_layers(ours) if stacked else ours, tmp_path / "saved", companions=())
    reloaded, report = GPTNeoXForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values())
    assert same_state(reloaded, theirs)
    tokens = np.arange(20).reshape(2, 10)
    valid = np.ones((2, 10), bool)
    np.testing.assert_array_equal(
        hf_logits(reloaded, tokens, valid), hf_logits(theirs, tokens, valid)
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_saved_and_loaded_is_the_same_model(
    tmp_path: Path, model: GPTNeoX, dtype: jnp.dtype
) -> None:
    model = jax.tree.map(lambda array: array.astype(dtype), model)
    save(model, tmp_path / "a", companions=())
    assert_same_bits(load(tmp_path / "a", dtype=dtype), model)
    save(stack_layers(model), tmp_path / "b", companions=())
    assert_same_bits(load(tmp_path / "b", dtype=dtype), model)
    hf = AutoConfig.from_pretrained(tmp_path / "a")
    assert str(hf.dtype) == f"torch.{jnp.dtype(dtype).name}"
    old_spelling = json.loads((tmp_path / "a" / "config.json").read_text())["torch_dtype"]
    assert old_spelling == jnp.dtype(dtype).name


def test_empty_directory_is_filled_and_nothing_else_is_left(tmp_path: Path, model: GPTNeoX) -> None:
    (tmp_path / "saved").mkdir()
    save(model, tmp_path / "saved", companions=())
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    files = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert files == ["config.json", "model.safetensors"]


def test_that_the_tokenizer_is_left_behind_is_told(tmp_path: Path, model: GPTNeoX) -> None:
    with pytest.warns(UserWarning, match="saved: is saved without a tokenizer; TextGenerator.save"):
        save(model, tmp_path / "saved")
    (tmp_path / "tokenizer.json").write_text("{}")
    save(model, tmp_path / "with", companions=[tmp_path / "tokenizer.json"])
    save(model, tmp_path / "named", companions=[str(tmp_path / "tokenizer.json")])
    assert (tmp_path / "with" / "tokenizer.json").read_text() == "{}"


def test_directory_that_holds_something_is_left_alone(tmp_path: Path, model: GPTNeoX) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty directory; choose another name"):
        save(model, tmp_path, companions=())
    with pytest.raises(InputError, match="is not an empty directory"):
        save(model, tmp_path / "notes.txt", companions=())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_place_that_cannot_be_written_is_named(tmp_path: Path, model: GPTNeoX) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/saved: cannot be written: Not a directory"):
        save(model, tmp_path / "file" / "saved", companions=())


def test_link_to_an_empty_directory_is_followed(tmp_path: Path, model: GPTNeoX) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    save(model, tmp_path / "link", companions=())
    assert (tmp_path / "link").is_symlink()
    assert_same_bits(load(tmp_path / "elsewhere"), model)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "link"]


def test_directory_that_cannot_be_replaced_is_refused(
    tmp_path: Path, model: GPTNeoX, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for here in (".", "", tmp_path):
        with pytest.raises(InputError, match="is the working directory; choose another name"):
            save(model, here, companions=())
    with pytest.raises(InputError, match="^/: is not an empty directory"):
        save(model, "/", companions=())
    with pytest.raises(InputError, match=r"^'a\\x00b': cannot be a directory: .*null"):
        save(model, "a\0b", companions=())
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop'?: cannot be"):
        save(model, tmp_path / "loop", companions=())
    assert os.listdir(tmp_path) == ["loop"]


def test_failure_while_writing_leaves_nothing(tmp_path: Path, model: GPTNeoX) -> None:
    model.final_layer_norm.weight.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        save(model, tmp_path / "saved", companions=())
    assert os.listdir(tmp_path) == []
