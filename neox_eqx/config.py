"""The architecture of one GPT-NeoX model, read from a Hugging Face config.json."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.field_types import known_fields
from neox_eqx.rope import DEFAULT_POSITIONS, RopeParameters
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json

ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "relu",
    "silu",
    "swish",
    "quick_gelu",
)
QUANTIZATION = "quantization_config"
"""The key of config.json that says in what form weights are."""
_METHOD = "neox_eqx"


@dataclasses.dataclass(frozen=True)
class GPTNeoXConfig:
    """The architecture, with the names and defaults of transformers' `GPTNeoXConfig`.

    Raises:
        InputError: a value is not supported; the message names the key.
    """

    vocab_size: int = 50432
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    max_position_embeddings: int = DEFAULT_POSITIONS
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    attention_bias: bool = True
    rope_parameters: RopeParameters = RopeParameters()

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.layer_norm_eps < 0:
            raise InputError(f"layer_norm_eps must not be below 0, not {self.layer_norm_eps}")
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"hidden_act {shown(self.hidden_act)} is not supported; "
                f"it is one of {', '.join(ACTIVATIONS)}"
            )
        self._check_rotary()

    def _check_rotary(self) -> None:
        kind, width = self.rope_parameters.rope_type, self.rotary_dim
        if width + width % 2 > self.head_dim:
            raise InputError(f"rotary width {width} does not fit into a head of {self.head_dim}")
        if kind == "yarn" and width % 2:
            raise InputError(f"rope_type 'yarn' needs an even rotary width, not {width}")
        if kind == "dynamic" and width <= 2:
            raise InputError(f"rope_type 'dynamic' needs a rotary width above 2, not {width}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """The dims of a head that the config says to rotate; if odd, one more is rotated."""
        return int(self.head_dim * self.rope_parameters.partial_rotary_factor)

    @property
    def context_length(self) -> int:
        """The longest text in tokens that the position embedding is made for."""
        rope = self.rope_parameters
        if rope.rope_type == "default" or rope.factor is None:
            return self.max_position_embeddings
        trained = rope.original_max_position_embeddings or self.max_position_embeddings
        return max(self.max_position_embeddings, int(trained * rope.factor))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = self.eos_token_id
        return () if eos is None else (eos,) if isinstance(eos, int) else eos

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "GPTNeoXConfig":
        """Reads the object of a config.json; keys that do not alter the forward pass are ignored.

        Raises:
            InputError: another architecture, a quantised checkpoint or an unsupported value.
        """
        if hf.get("model_type") != "gpt_neox":
            raise InputError(
                f"model_type is {shown(hf.get('model_type'))}; neox_eqx runs 'gpt_neox' models only"
            )
        weights_form(hf)
        values = {**hf, "rope_parameters": RopeParameters.from_hf(hf)}
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        return cls(**known_fields(cls, values))

    @classmethod
    def from_file(cls, path: Path) -> "GPTNeoXConfig":
        """Reads a config.json; every error names the file."""
        try:
            return cls.from_hf(read_json(path))
        except InputError as error:
            where = "" if str(path) in str(error) else f"{path}: "
            raise InputError(f"{where}{error}") from error

    def to_hf(self) -> dict[str, Any]:
        """A config.json that transformers 5 and 4 both read rightly, where 4 can.

        Transformers 4 reads `rotary_pct`, `rotary_emb_base` and `rope_scaling`, and would silently
        fall back to its defaults without them. Its 4.44 and before take a `rope_scaling` of just
        type and factor: they read linear and dynamic, and refuse yarn, llama3 and factors up to 1.
        """
        values = dataclasses.asdict(self)
        rope = self.rope_parameters
        values["rope_parameters"] = rope.to_hf()
        values["rotary_pct"] = rope.partial_rotary_factor
        values["rotary_emb_base"] = rope.rope_theta
        values["rope_scaling"] = None if rope.rope_type == "default" else rope.to_hf()
        if rope.factor is not None and rope.rope_type in ("linear", "dynamic"):
            values["rope_scaling"] = {"type": rope.rope_type, "factor": float(rope.factor)}
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        return {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", **values}


def quantization_config(form: str) -> dict[str, str]:
    """What config.json says of weights that are in few bits as this package has them.

    transformers, which cannot read them, refuses a method that it does not know.
    """
    return {"quant_method": _METHOD, "form": form}


def weights_form(hf: Mapping[str, Any]) -> str | None:
    """The name of the form in few bits that a config.json says its weights are in, if any.

    Raises:
        InputError: they are quantised by others.
    """
    stated = hf.get(QUANTIZATION)
    if not stated:
        return None
    form = stated.get("form") if isinstance(stated, Mapping) else None
    if not isinstance(form, str) or stated.get("quant_method") != _METHOD:
        raise InputError(f"{QUANTIZATION} is not supported; use the unquantised checkpoint")
    return form
