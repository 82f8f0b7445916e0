"""The architectures of the public GPT-NeoX models, by name.

A preset is the shape of a model without its weights: enough to plan, and to measure speed with
random parameters. `python -m neox_eqx.presets` prints them as a table.
"""

from typing import Any

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.rope import RopeParameters
from neox_eqx.shown import shown


def _shape(
    layers: int,
    heads: int,
    hidden_size: int,
    vocab_size: int,
    *,
    rotary: float = 0.25,
    **others: Any,
) -> GPTNeoXConfig:
    """A config with an MLP of four times the hidden size, as all of the public models have."""
    rope = RopeParameters(partial_rotary_factor=rotary)
    values: dict[str, Any] = dict(bos_token_id=0, eos_token_id=0, rope_parameters=rope) | others
    return GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        **values,
    )


def _sequential(
    layers: int, heads: int, hidden_size: int, vocab_size: int, **others: Any
) -> GPTNeoXConfig:
    """Attention, then the MLP on its result; whole heads are rotated."""
    residual: dict[str, Any] = dict(use_parallel_residual=False, rotary=1.0)
    return _shape(layers, heads, hidden_size, vocab_size, **(residual | others))


_RINNA: dict[str, Any] = dict(bos_token_id=2, eos_token_id=3)
_BILINGUAL = _RINNA | dict(attention_dropout=0.1, hidden_dropout=0.1)

PRESETS: dict[str, GPTNeoXConfig] = {
    "pythia-14m": _shape(6, 4, 128, 50304),
    "pythia-31m": _shape(6, 8, 256, 50304),
    "pythia-70m": _shape(6, 8, 512, 50304),
    "pythia-160m": _shape(12, 12, 768, 50304),
    "pythia-410m": _shape(24, 16, 1024, 50304),
    "pythia-1b": _shape(16, 8, 2048, 50304),
    "pythia-1.4b": _shape(24, 16, 2048, 50304),
    "pythia-2.8b": _shape(32, 32, 2560, 50304),
    "pythia-6.9b": _shape(32, 32, 4096, 50432),
    "pythia-12b": _shape(36, 40, 5120, 50688),
    "gpt-neox-20b": _shape(44, 64, 6144, 50432, hidden_act="gelu_fast"),
    "polyglot-ko-1.3b": _shape(24, 16, 2048, 30080, rotary=0.5),
    "polyglot-ko-3.8b": _shape(32, 24, 3072, 30080, rotary=0.5),
    "polyglot-ko-5.8b": _shape(28, 16, 4096, 30080),
    "polyglot-ko-12.8b": _shape(40, 40, 5120, 30080, rotary=0.5),
    "dolly-v2-3b": _shape(32, 32, 2560, 50280),
    "dolly-v2-7b": _shape(32, 32, 4096, 50280),
    "dolly-v2-12b": _shape(36, 40, 5120, 50280),
    "redpajama-incite-3b": _sequential(32, 32, 2560, 50432),
    "redpajama-incite-7b": _sequential(32, 32, 4096, 50432),
    "stablelm-alpha-3b": _shape(16, 32, 4096, 50688, max_position_embeddings=4096),
    "stablelm-alpha-7b": _shape(16, 48, 6144, 50432, max_position_embeddings=4096),
    "open-calm-small": _sequential(12, 12, 768, 52096),
    "open-calm-medium": _sequential(24, 16, 1024, 52096),
    "open-calm-large": _sequential(24, 16, 1536, 52096),
    "open-calm-1b": _sequential(24, 16, 2048, 52096),
    "open-calm-3b": _sequential(32, 32, 2560, 52096),
    "open-calm-7b": _sequential(32, 32, 4096, 52224),
    "rinna-3.6b": _sequential(36, 22, 2816, 32000, **_RINNA),
    "rinna-bilingual-4b": _sequential(36, 22, 2816, 65536, **_BILINGUAL),
    "rinna-bilingual-4b-8k": _sequential(
        *(36, 22, 2816, 65536),
        rope_parameters=RopeParameters("linear", partial_rotary_factor=1.0, factor=4.0),
        **_BILINGUAL,
    ),
    "line-japanese-large-lm-3.6b": _sequential(30, 32, 3072, 51200, tie_word_embeddings=True),
    "weblab-10b": _shape(36, 38, 4864, 50277),
}


def preset(name: str) -> GPTNeoXConfig:
    """
    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {shown(name)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def parameter_count(config: GPTNeoXConfig) -> int:
    """The parameters of a model of this shape; a tied head counts once."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    norm = 2 * hidden
    attention = 4 * hidden * hidden + (4 * hidden if config.attention_bias else 0)
    feed_forward = 2 * hidden * mlp + mlp + hidden
    embeddings = (1 if config.tie_word_embeddings else 2) * config.vocab_size * hidden
    return config.num_hidden_layers * (2 * norm + attention + feed_forward) + norm + embeddings


def markdown_table() -> str:
    """The presets as a Markdown table, a row each."""
    heading = (
        "| Name | Parameters | Layers | Heads | Hidden size | MLP size | Vocabulary | Residual "
        "| Rotary share | Activation |"
    )
    alignment = "|---|" + "---:|" * 6 + "---|" + "---:|---|"
    return "\n".join([heading, alignment, *(_row(*preset) for preset in PRESETS.items())])


def _row(name: str, config: GPTNeoXConfig) -> str:
    rope = config.rope_parameters
    scaling = "" if rope.factor is None else f", {rope.rope_type} ×{rope.factor:g}"
    cells = (
        name,
        f"{parameter_count(config):,}",
        config.num_hidden_layers,
        config.num_attention_heads,
        f"{config.hidden_size:,}",
        f"{config.intermediate_size:,}",
        f"{config.vocab_size:,}" + (", tied" if config.tie_word_embeddings else ""),
        "parallel" if config.use_parallel_residual else "sequential",
        f"{rope.partial_rotary_factor:.0%}{scaling}",
        config.hidden_act,
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
