"""A LoRA adapter is converted to the model that PEFT makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from tests.checkpoint.adapters import save_adapter
from tests.hf_models import config_json, hf_model


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_it_becomes_one_model(stored: str, tmp_path: Path) -> None:
    base, adapter, result = (tmp_path / name for name in ("base", "adapter", "result"))
    hf_model(config_json()).to(getattr(torch, stored)).save_pretrained(base)
    (base / "tokenizer.json").write_text("the base's")
    expected = save_adapter(base, adapter, target_modules=["query_key_value", "dense"])
    (adapter / "tokenizer.json").write_text("the adapter's")
    certificate = convert(adapter, result, to="hf")
    theirs = GPTNeoXForCausalLM.from_pretrained(result, dtype="auto")
    assert theirs.dtype == torch.float32
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), expected[name].numpy(), atol=5e-7, rtol=0)
    assert (result / "tokenizer.json").read_text() == "the adapter's"
    assert str(adapter / "adapter_model.safetensors") in certificate["source"]["files"]
    assert certificate["forward"]["greedy_tokens_agreeing"] == 32
    assert check(result) == (len(certificate["result"]["files"]), len(certificate["tensors"]))
