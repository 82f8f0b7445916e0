"""EleutherAI checkpoints of transformers' own models, written with plain torch.

What goes where is written down here a second time, from the format's rules, so that the package's
table of them is held against another.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import GPTNeoXForCausalLM

STEP = "global_step11"

# What each generation of GPT-NeoX calls what Hugging Face calls otherwise.
RENAMED = {
    "legacy": {},
    "new": {"mlp.dense_h_to_4h.": "mlp.linear1.", "mlp.dense_4h_to_h.": "mlp.linear2."},
    "transformer engine": {
        "mlp.dense_h_to_4h.": "mlp.fc1_",
        "mlp.dense_4h_to_h.": "mlp.fc2_",
        "attention.query_key_value.": "attention.qkv.",
        "attention.dense.": "attention.proj.",
        "post_attention_layernorm.": "mlp.layer_norm_",
    },
}
BY_ROWS = ("word_embeddings", "final_linear", "query_key_value", "dense_h_to_4h")
BY_COLUMNS = ("attention.dense.weight", "dense_4h_to_h.weight")
SUMMANDS = ("attention.dense.bias", "dense_4h_to_h.bias")

Modules = dict[int, dict[str, torch.Tensor]]


@dataclasses.dataclass
class NeoX:
    """A checkpoint before it is written: for each rank the modules by number, and the settings.

    A test spoils it as it likes and then writes it.
    """

    ranks: list[Modules]
    settings: dict[str, Any]
    states: dict[str, Any]

    def write(self, root: Path, layout: str) -> Path:
        """Writes it as `root`, which it returns."""
        step = root / STEP
        (step / "configs").mkdir(parents=True)
        (root / "latest").write_text(STEP)
        (step / "configs" / "run.yml").write_text(yaml.safe_dump(self.settings))
        for rank, modules in enumerate(self.ranks):
            module: dict[str, torch.Tensor] | None = None
            if layout == "sequential":
                module = {
                    f"sequential.{number}.{name}": tensor
                    for number, tensors in modules.items()
                    for name, tensor in tensors.items()
                }
            states = {"module": module, **self.states}
            torch.save(states, step / f"mp_rank_{rank:02d}_model_states.pt")
            for number, tensors in modules.items() if layout == "pipeline" else ():
                torch.save(tensors, step / f"layer_{number:02d}-model_{rank:02d}-model_states.pt")
        return root


def neox(model: GPTNeoXForCausalLM, ranks: int = 1, names: str = "legacy") -> NeoX:
    """The model split among ranks, the biases that ranks add up into uneven random summands."""
    modules = numbered(state_dict(model), model.config.num_hidden_layers)
    parallel = model.config.use_parallel_residual
    split: list[Modules] = [{} for _ in range(ranks)]
    for number, tensors in modules.items():
        for name, tensor in tensors.items():
            for rank, part in enumerate(parts(name, tensor, ranks, parallel)):
                split[rank].setdefault(number, {})[renamed(name, names)] = part
        for rank in range(ranks):
            if 2 <= number < 2 + model.config.num_hidden_layers:
                inv_freq = torch.arange(2, dtype=torch.float16)
                split[rank][number]["attention.rotary_emb.inv_freq"] = inv_freq
    return NeoX(split, settings(model, ranks), {"iteration": 11, "global_steps": 11})


def state_dict(model: GPTNeoXForCausalLM) -> dict[str, torch.Tensor]:
    """The parameters under the names that files have; of a tied head nothing."""
    tensors = {
        name.replace("lm_head.", "embed_out."): tensor.detach()
        for name, tensor in model.state_dict().items()
    }
    if model.config.tie_word_embeddings:
        del tensors["embed_out.weight"]
    return tensors


def numbered(tensors: dict[str, torch.Tensor], layers: int) -> Modules:
    modules: Modules = {}
    for name, tensor in tensors.items():
        if name == "gpt_neox.embed_in.weight":
            number, within = 0, "word_embeddings.weight"
        elif name == "embed_out.weight":
            number, within = layers + 4, "final_linear.weight"
        elif match := re.fullmatch(r"gpt_neox\.final_layer_norm\.(.+)", name):
            number, within = layers + 3, f"norm.{match[1]}"
        else:
            match = re.fullmatch(r"gpt_neox\.layers\.(\d+)\.(.+)", name)
            assert match is not None, name
            number, within = int(match[1]) + 2, match[2]
        modules.setdefault(number, {})[within] = tensor
    return modules


def parts(name: str, tensor: torch.Tensor, ranks: int, parallel: bool) -> list[torch.Tensor]:
    """A tensor's parts, each with a storage of its own."""
    if any(word in name for word in BY_ROWS):
        return [part.clone() for part in tensor.chunk(ranks, dim=0)]
    if name in SUMMANDS or name.removeprefix("mlp.") in SUMMANDS:
        return summands(tensor, ranks) if parallel else [tensor.clone() for _ in range(ranks)]
    if any(word in name for word in BY_COLUMNS):
        return [part.clone() for part in tensor.chunk(ranks, dim=1)]
    assert "norm" in name, name
    return [tensor.clone() for _ in range(ranks)]


def summands(tensor: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """Tensors that add up to this one but for rounding, none of them near its mean."""
    generator = torch.Generator().manual_seed(ranks)
    shares = [torch.randn(tensor.shape, generator=generator) for _ in range(ranks - 1)]
    return [*shares, tensor - sum(shares, torch.zeros_like(tensor))]


def renamed(name: str, names: str) -> str:
    for old, new in RENAMED[names].items():
        name = name.replace(old, new)
    return name


def settings(model: GPTNeoXForCausalLM, ranks: int) -> dict[str, Any]:
    """The YAML of a run with this model; keys with hyphens, as the published ones mostly are."""
    config = model.config
    values = {
        "pipe-parallel-size": 1,
        "model-parallel-size": ranks,
        "num-layers": config.num_hidden_layers,
        "hidden-size": config.hidden_size,
        "num-attention-heads": config.num_attention_heads,
        "seq-length": 16,
        "max-position-embeddings": config.max_position_embeddings,
        "norm": "layernorm",
        "pos-emb": "rotary",
        "rotary-pct": config.rope_parameters["partial_rotary_factor"],
        "no-weight-tying": not config.tie_word_embeddings,
        "gpt-j-residual": config.use_parallel_residual,
        "attention-config": [[["flash"], config.num_hidden_layers]],
        "layernorm-epsilon": config.layer_norm_eps,
        "optimizer": {"type": "Adam", "params": {"lr": 0.0006}},
    }
    if not config.attention_bias:
        values["use-bias-in-attn-linear"] = False
    return values
