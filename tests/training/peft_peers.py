"""The same LoRA, soft prompt or prefix in the PEFT package and in ours."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import peft
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, SoftPrompt
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.trained import Trained, trainable
from neox_eqx.training.update.tuning import Tuning
from tests.hf_models import config_json, from_torch, hf_model, to_array

CONFIG = config_json(32, 4, rotary_pct=0.5, use_parallel_residual=True, vocab_size=112)
SEQUENTIAL = {**CONFIG, "use_parallel_residual": False, "tie_word_embeddings": True}
TARGETS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
POSITIONS = 5

LORA = Tuning(lora_rank=4, lora_alpha=3, lora_targets=TARGETS, use_rslora=True)
PROMPT = Tuning(prompt_tokens=POSITIONS)
PREFIX = Tuning(prefix_tokens=POSITIONS)
KINDS = {"lora": LORA, "prompt": PROMPT, "prefix": PREFIX}


def peft_model(tuning: Tuning, values: dict[str, Any]) -> peft.PeftModel:
    """PEFT's on transformers' random model; what is trained is random and away from 0."""
    config: peft.PeftConfig
    if tuning.lora_rank:
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=tuning.lora_rank,
            lora_alpha=tuning.lora_alpha,
            target_modules=list(tuning.lora_targets),
            use_rslora=tuning.use_rslora,
            lora_dropout=tuning.lora_dropout or 0.0,
        )
    else:
        kind = peft.PromptTuningConfig if tuning.prompt_tokens else peft.PrefixTuningConfig
        config = kind(task_type="CAUSAL_LM", num_virtual_tokens=POSITIONS)
    return trained_at_random(hf_model(values), config)


def trained_at_random(model: GPTNeoXForCausalLM, config: peft.PeftConfig) -> peft.PeftModel:
    with warnings.catch_warnings(action="ignore"):  # of names in transformers that will go
        theirs = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    return theirs


def our_model(values: dict[str, Any]) -> GPTNeoX:
    return from_torch(hf_model(values), GPTNeoXConfig.from_hf(values))


def from_peft(
    theirs: peft.PeftModel,
    tuning: Tuning,
    model: GPTNeoX,
    of: Callable[[torch.nn.Parameter], torch.Tensor] = lambda parameter: parameter,
) -> tuple[Trained, GPTNeoX]:
    """What PEFT trains, or what `of` makes of it, as ours; and the frozen."""
    trained, frozen = trainable(model, tuning, Recipe(steps=1))
    assert frozen is not None
    tensors = {
        name.replace(".default", "").removeprefix("base_model.model.gpt_neox."): of(parameter)
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    if isinstance(trained, GPTNeoX):
        trained = jax.tree_util.tree_map_with_path(
            lambda path, _: to_array(
                tensors[jax.tree_util.keystr(path, simple=True, separator=".")]
            ),
            trained,
        )
        return trained, frozen
    (tensor,) = tensors.values()
    if isinstance(trained, SoftPrompt):
        return SoftPrompt(to_array(tensor)), frozen
    config = model.config
    apart = tensor.view(
        POSITIONS, config.num_hidden_layers, 2, config.num_attention_heads, config.head_dim
    )
    keys_and_values = apart.permute(2, 1, 3, 0, 4)
    return Prefix(*map(to_array, keys_and_values)), frozen


def peft_gradients(
    theirs: peft.PeftModel, batch: Batch, tuning: Tuning, model: GPTNeoX
) -> tuple[float, Trained]:
    """The loss, and its gradients in the form of ours; the batch is padded on the right."""
    documents, weights = np.array(batch.documents), np.array(batch.weights)
    tokens = torch.tensor(np.array(batch.tokens)).long()
    learnt = (weights == 1) & (documents == 1)
    learnt[:, 0] = False  # which PEFT would learn after the last position of a soft prompt
    theirs.zero_grad()
    loss = theirs(
        input_ids=tokens,
        attention_mask=torch.tensor(documents).long(),
        labels=torch.where(torch.tensor(learnt), tokens, -100),
    ).loss
    loss.backward()
    return loss.item(), from_peft(theirs, tuning, model, lambda parameter: parameter.grad)[0]


def peft_tokens(theirs: peft.PeftModel, prompt: list[int], count: int) -> list[int]:
    """What PEFT generates greedily."""
    tokens = torch.tensor([prompt])
    with warnings.catch_warnings(action="ignore"):  # "Position ids are not supported"
        text = theirs.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
        )
    return text[0, len(prompt) :].tolist()
