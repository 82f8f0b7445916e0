"""Between an EleutherAI run's settings and Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json

# EleutherAI's names of settings, with Hugging Face's name of each and EleutherAI's default: a model
# whose settings are silent rotates whole heads and has sequential residuals.
_SAME = {
    "num_layers": ("num_hidden_layers", None),
    "hidden_size": ("hidden_size", None),
    "num_attention_heads": ("num_attention_heads", None),
    "max_position_embeddings": ("max_position_embeddings", None),
    "rotary_pct": ("rotary_pct", 1.0),
    "rotary_emb_base": ("rotary_emb_base", 10000),
    "gpt_j_residual": ("use_parallel_residual", False),
    "layernorm_epsilon": ("layer_norm_eps", 1e-5),
    "init_method_std": ("initializer_range", 0.02),
    "use_bias_in_attn_linear": ("attention_bias", True),
    "attention_dropout": ("attention_dropout", 0.0),
    "hidden_dropout": ("hidden_dropout", 0.0),
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
_OF_TRAINING = ("initializer_range", "attention_dropout", "hidden_dropout")
_FUSED_GELU = ("gelu_fast", "gelu_new", "gelu_pytorch_tanh")


def read_config(
    where: Path,
    settings: Mapping[str, Any],
    *,
    fused_gelu: str,
    vocab_size: int,
    intermediate_size: int,
) -> GPTNeoXConfig:
    """The architecture that settings describe, with the two sizes that only the tensors tell.

    `fused_gelu` is the activation where the run fused gelu with its bias: its kernel computes
    gelu_fast, while the models published from such runs mostly say gelu.

    Raises:
        InputError: a setting is missing or contradicts the tensors or the others.
    """
    missing = [key for key, (_, default) in _SAME.items() if settings.get(key, default) is None]
    if missing:
        raise InputError(f"{where}: lacks {', '.join(missing)}; add what the run was made with")
    values = {name: settings.get(key, default) for key, (name, default) in _SAME.items()}
    activation = _ACTIVATIONS[settings.get("activation", "gelu")]
    if activation == "gelu" and settings.get("bias_gelu_fusion", False):
        activation = fused_gelu
    tied = not settings.get("no_weight_tying", False)
    try:
        return GPTNeoXConfig.from_hf(
            {
                "model_type": "gpt_neox",
                **values,
                "vocab_size": vocab_size,
                "intermediate_size": intermediate_size,
                "hidden_act": activation,
                "tie_word_embeddings": tied,
                "bos_token_id": None,
                "eos_token_id": None,
            }
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_intermediate_size(where: Path, settings: Mapping[str, Any], size: int) -> None:
    """Refuses settings whose MLP has another width than the tensors.

    Raises:
        InputError: they differ; the message has both.
    """
    told = settings.get("intermediate_size")
    # EleutherAI rounds it up to a multiple of twice this, so that a gated MLP could halve it.
    multiple = settings.get("mlp_multiple_of", 1)
    step = 2 * multiple if isinstance(multiple, int) and multiple > 0 else 2
    if isinstance(told, int) and size not in (told, -(-told // step) * step):
        raise InputError(
            f"{where}: intermediate_size {told} contradicts the tensors, whose MLP is {size} wide"
        )


def published(path: Path, config: GPTNeoXConfig) -> dict[str, Any]:
    """The config.json that stands beside the checkpoint, which must be of this model.

    It tells what settings do not: the ids of the special tokens and which gelu is meant.

    Raises:
        InputError: it describes another model.
    """
    theirs = GPTNeoXConfig.from_file(path)
    same_act = theirs.hidden_act == config.hidden_act or (
        {theirs.hidden_act, config.hidden_act} <= {"gelu", *_FUSED_GELU}
        or {theirs.hidden_act, config.hidden_act} <= {"silu", "swish"}
    )
    untold = ("hidden_act", "bos_token_id", "eos_token_id", "pad_token_id", *_OF_TRAINING)
    ours, named = (dataclasses.asdict(which) for which in (config, theirs))
    wrong = [key for key in named if key not in untold and named[key] != ours[key]]
    if wrong or not same_act:
        told = ", ".join(f"{key} {shown(named[key])}" for key in wrong or ["hidden_act"])
        raise InputError(
            f"{path}: {told} contradicts the settings of the run; correct or remove it"
        )
    return read_json(path)


def settings_of(where: Path, config: GPTNeoXConfig) -> dict[str, Any]:
    """The settings of a run whose model has this architecture.

    Settings that EleutherAI's older versions do not know are left out at their defaults.

    Raises:
        InputError: their models have no such rotary embedding or activation.
    """
    kind, activation = config.rope_parameters.rope_type, config.hidden_act
    if kind != "default":
        raise InputError(
            f"{where}: GPT-NeoX has no rope_type {shown(kind)}; only 'default' converts"
        )
    if activation in ("silu", "swish"):
        activation = "swish"
    elif activation not in ("gelu", "relu", *_FUSED_GELU):
        raise InputError(f"{where}: GPT-NeoX has no hidden_act {shown(activation)}")
    hf = config.to_hf()
    settings = {key: hf[name] for key, (name, _) in _SAME.items()}
    settings |= {
        "seq_length": config.max_position_embeddings,
        "norm": "layernorm",
        "pos_emb": "rotary",
        "no_weight_tying": not config.tie_word_embeddings,
        "activation": "gelu" if activation in _FUSED_GELU else activation,
        "bias_gelu_fusion": activation in _FUSED_GELU,
        "output_layer_parallelism": "column",
    }
    if config.intermediate_size != 4 * config.hidden_size:
        settings["intermediate_size"] = config.intermediate_size
    if config.attention_bias:
        del settings["use_bias_in_attn_linear"]
    return settings
