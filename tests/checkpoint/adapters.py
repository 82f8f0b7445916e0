"""LoRA adapters as PEFT saves them."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import GPTNeoXForCausalLM


def save_adapter(base: Path, directory: Path, **config: Any) -> dict[str, torch.Tensor]:
    """An adapter with random numbers in all that it trains, and the weights that PEFT merges."""
    with warnings.catch_warnings(action="ignore"):
        model = GPTNeoXForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
        torch.manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.3)
        adapted.save_pretrained(directory)
        model = GPTNeoXForCausalLM.from_pretrained(base, dtype=torch.float32)
        return peft.PeftModel.from_pretrained(model, directory).merge_and_unload().state_dict()
