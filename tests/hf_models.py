"""Tiny random models of every public GPT-NeoX family: transformers' and ours, same weights.

`FAMILIES` holds config.json objects as the families publish them, old keys and oddities kept,
with every size scaled down. Both sides read the same object, each with its own reader.
"""

import copy
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPTNeoXConfig as HFConfig
from transformers import GPTNeoXForCausalLM

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX, stack


def config_json(
    hidden_size: int = 48, num_attention_heads: int = 4, **others: Any
) -> dict[str, Any]:
    """A config.json of a tiny model: two layers, an MLP four times as wide unless given."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 96,
        "num_hidden_layers": 2,
        "hidden_size": hidden_size,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        **others,
    }


_PYTHIA = dict(
    use_parallel_residual=True, rotary_pct=0.25, rotary_emb_base=10000, hidden_act="gelu"
)
_SEQUENTIAL = dict(use_parallel_residual=False, rotary_pct=1.0, hidden_act="gelu")
_POLYGLOT = dict(rotary_pct=0.5, hidden_act="gelu", num_steps="global_step301000")
_LINEAR = {"type": "linear", "factor": 4.0}
_DYNAMIC = {"type": "dynamic", "factor": 4.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt-neox-20b": config_json(
        # Head size 96 / 8 and a quarter of it: an odd rotary width of 3.
        **dict(rotary_pct=0.25, hidden_act="gelu_fast", eos_token_id=0, torch_dtype="float16"),
        **dict(attention_probs_dropout_prob=0, hidden_dropout_prob=0, rope_scaling=None),
    ),
    "gpt-neoxt-chat": config_json(
        **{**_PYTHIA, "hidden_act": "gelu_fast"}, custom_pipelines={"text-generation": {}}
    ),
    "pythia-70m": config_json(64, 4, **_PYTHIA, vocab_size=128),
    "pythia-1b": config_json(64, 2, **_PYTHIA, intermediate_size=128, num_hidden_layers=3),
    "dolly-v2": config_json(40, 2, **_PYTHIA, vocab_size=101, use_cache=False),
    "redpajama-3b": config_json(40, 4, **_SEQUENTIAL),
    "redpajama-7b": config_json(64, 4, **_SEQUENTIAL, num_hidden_layers=3),
    "stablelm-alpha": config_json(48, 3, **_PYTHIA, max_position_embeddings=128),
    "stablecode-alpha": config_json(40, 4, **_PYTHIA, hidden_dropout_prob=0.1),
    "polyglot-ko-1.3b": config_json(64, 4, **_POLYGLOT, vocab_size=80),
    "polyglot-ko-5.8b": config_json(64, 2, **{**_POLYGLOT, "rotary_pct": 0.25}, vocab_size=80),
    "polyglot-ko-resized": config_json(
        48, 3, **_POLYGLOT, use_parallel_residual=True, vocab_size=83, pad_token_id=2
    ),
    "open-calm-small": config_json(48, 4, **_SEQUENTIAL, torch_dtype="float16"),
    "calm-7b": config_json(64, 2, **_SEQUENTIAL, vocab_size=98, torch_dtype="bfloat16"),
    "rinna-3.6b": config_json(44, 11, **_SEQUENTIAL, bos_token_id=2, eos_token_id=3),
    "rinna-bilingual-4b": config_json(
        48, 3, **_SEQUENTIAL, attention_dropout=0.1, hidden_dropout=0.1, classifier_dropout=0.1
    ),
    "rinna-bilingual-4b-8k": config_json(48, 3, **_SEQUENTIAL, rope_scaling=_LINEAR),
    "line-3.6b": config_json(48, 4, **_SEQUENTIAL, tie_word_embeddings=True),
    "weblab-10b": config_json(38, 19, rotary_pct=1.0, hidden_act="gelu", vocab_size=91),
    "pythia-2.8b-anneal": config_json(40, 2, **_PYTHIA, rope_scaling=_DYNAMIC),
    # No public checkpoint has these; the architecture allows them.
    "no-attention-bias": config_json(48, 2, **_PYTHIA, attention_bias=False),
    "tied-sequential-quarter": config_json(
        48, 4, use_parallel_residual=False, tie_word_embeddings=True, hidden_act="gelu_new"
    ),
    "other-epsilon-and-theta": config_json(
        48, 2, rotary_pct=0.5, rotary_emb_base=500000, layer_norm_eps=1e-6, hidden_act="silu"
    ),
    "yarn": config_json(48, 3, rope_scaling={"rope_type": "yarn", "factor": 4.0}, rotary_pct=1.0),
    "llama3": config_json(
        48,
        3,
        hidden_act="gelu_pytorch_tanh",
        rope_parameters={
            **dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0),
            **dict(rope_theta=10000.0, partial_rotary_factor=0.75),
        },
    ),
    "rotates-nothing": config_json(48, 4, rotary_pct=0.0, hidden_act="relu"),
}


def hf_config(values: dict[str, Any]) -> HFConfig:
    """What transformers reads from a config.json; it alters its argument, so it gets a copy."""
    return HFConfig.from_dict(copy.deepcopy(values))


def hf_model(values: dict[str, Any], seed: int = 0) -> GPTNeoXForCausalLM:
    """A random float32 model. Biases and norms are random too: at 0 and 1 they hide mistakes."""
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(hf_config(values)).eval().float()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            elif "norm" in name:
                parameter.normal_(1.0, 0.2)
    return model


def to_array(tensor: torch.Tensor) -> jax.Array:
    """The same values in the same dtype; bfloat16 passes through float32, which holds it."""
    dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch."))
    return jnp.asarray(tensor.detach().float().numpy()).astype(dtype)


def from_torch(model: GPTNeoXForCausalLM, config: GPTNeoXConfig) -> GPTNeoX:
    """A live torch model as ours, parameter by parameter under its Hugging Face name."""
    tensors = {
        name.removeprefix("gpt_neox.").replace("lm_head", "embed_out"): tensor
        for name, tensor in model.state_dict().items()
    }
    template = eqx.filter_eval_shape(GPTNeoX.init, config, key=jax.random.key(0))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: to_array(tensors[jax.tree_util.keystr(path, simple=True, separator=".")]),
        template,
    )


def stack_layers(model: GPTNeoX) -> GPTNeoX:
    """The same model with its layers in one scanned Block."""
    return eqx.tree_at(lambda m: m.layers, model, stack(model.layers))


@functools.cache
def family(name: str) -> tuple[GPTNeoXForCausalLM, GPTNeoX]:
    """The tiny model of a family, transformers' and ours. Shared: do not alter either."""
    return pair(FAMILIES[name])


def pair(values: dict[str, Any], seed: int = 0) -> tuple[GPTNeoXForCausalLM, GPTNeoX]:
    """A random model of a config.json, transformers' and ours."""
    theirs = hf_model(values, seed)
    return theirs, from_torch(theirs, GPTNeoXConfig.from_hf(values))


def padded_batch(
    vocab_size: int, lengths: tuple[int, ...] = (12, 7, 1), *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, and where they are real: each length padded left, then each padded right.

    The padding holds random ids too, so that whatever reads it shows.
    """
    index, size = np.arange(max(lengths)), np.array(lengths)[:, None]
    valid = np.concatenate([index >= max(lengths) - size, index < size])
    return np.random.default_rng(seed).integers(0, vocab_size, valid.shape), valid


def our_logits(model: GPTNeoX, tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Logits of every position."""
    return np.asarray(_our_logits(model, jnp.asarray(tokens), jnp.asarray(valid)))


def our_states(
    model: GPTNeoX, tokens: np.ndarray, valid: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """The normalised hidden states after the embedding and after every layer, and the logits."""
    return jax.tree.map(np.asarray, _our_states(model, jnp.asarray(tokens), jnp.asarray(valid)))


@eqx.filter_jit
def _our_logits(model: GPTNeoX, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    return model.logits(model(tokens, valid)[0])


@eqx.filter_jit
def _our_states(
    model: GPTNeoX, tokens: jax.Array, valid: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    shallow = [
        eqx.tree_at(lambda m: m.layers, model, model.layers[:depth])
        for depth in range(len(model.layers) + 1)
    ]
    states = [cut(tokens, valid)[0] for cut in shallow]
    return states, model.logits(states[-1])


def hf_logits(model: GPTNeoXForCausalLM, tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Logits of every position from a plain call, as float32."""
    with torch.no_grad():
        output = model(torch.tensor(tokens), attention_mask=torch.tensor(valid).long())
    return output.logits.float().numpy()


def hf_states(
    model: GPTNeoXForCausalLM, tokens: np.ndarray, valid: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """What `our_states` gives. transformers itself normalises the last state only."""
    mask = torch.tensor(valid).long()
    with torch.no_grad():
        output = model(torch.tensor(tokens), attention_mask=mask, output_hidden_states=True)
        *states, last = output.hidden_states
        normal = [model.gpt_neox.final_layer_norm(state) for state in states]
    return [state.numpy() for state in (*normal, last)], output.logits.numpy()
