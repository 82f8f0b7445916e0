"""The architecture of one GPT-NeoX model, read from a Hugging Face config.json."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.field_types import known_fields

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
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeParameters:
    """Rotary position embedding, with the keys of transformers' `rope_parameters`.

    `partial_rotary_factor` is the rotated share of each head. What a type does not use is None.
    """

    rope_type: str = "default"
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.25
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise InputError(
                f"rope_type {self.rope_type!r} is not supported; "
                f"it is one of {', '.join(ROPE_TYPES)}"
            )
        needed = {
            "default": (),
            "linear": ("factor",),
            "dynamic": ("factor",),
            "yarn": ("factor", "original_max_position_embeddings"),
            "llama3": (
                "factor",
                "original_max_position_embeddings",
                "low_freq_factor",
                "high_freq_factor",
            ),
        }[self.rope_type]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise InputError(f"rope_type {self.rope_type!r} needs {', '.join(missing)}")
        above_zero = ("rope_theta", "factor", "original_max_position_embeddings")
        for name in (*above_zero, "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be above 0, not {value}")
        if self.rope_type == "yarn" and self.rope_theta <= 1:
            raise InputError(f"rope_type 'yarn' needs a rope_theta above 1, not {self.rope_theta}")
        if not 0 <= self.partial_rotary_factor <= 1:
            raise InputError(f"rotary share {self.partial_rotary_factor} is not between 0 and 1")
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and not 0 < low < high:
            raise InputError(f"low_freq_factor {low} is not between 0 and high_freq_factor {high}")

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "RopeParameters":
        """Resolves the old and the new spellings as transformers 5 does.

        The nested keys win over `rotary_emb_base` and `rotary_pct`; a top-level `rope_theta` or
        `partial_rotary_factor` is not read for this architecture.
        """
        key = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
        nested = hf.get(key) or {}
        if not isinstance(nested, Mapping):
            raise InputError(f"{key} must be an object, not {nested!r:.80}")
        nested = dict(nested)
        nested.setdefault("rope_theta", hf.get("rotary_emb_base", 10000))
        nested.setdefault("partial_rotary_factor", hf.get("rotary_pct", 0.25))
        nested.setdefault("rope_type", nested.get("type", "default"))
        if nested["rope_type"] in ("yarn", "llama3"):
            # Unlike every other key, this one wins at the top level.
            name = "original_max_position_embeddings"
            positions = hf.get("max_position_embeddings", GPTNeoXConfig.max_position_embeddings)
            nested[name] = hf.get(name, nested.get(name, positions))
        return cls(**known_fields(cls, nested))

    def to_hf(self) -> dict[str, Any]:
        """The `rope_parameters` object of a config.json, without the keys that are not used."""
        values = dataclasses.asdict(self)
        set_keys = {key: value for key, value in values.items() if value is not None}
        if self.rope_type != "yarn":
            del set_keys["truncate"]
        return set_keys


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
    max_position_embeddings: int = 2048
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
                f"hidden_act {self.hidden_act!r} is not supported; "
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
        """The dims of a head that the config asks to rotate; an odd number rotates one more."""
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
                f"model_type is {hf.get('model_type')!r}; neox_eqx runs 'gpt_neox' models only"
            )
        if hf.get("quantization_config"):
            raise InputError("quantization_config is not supported; use the unquantised checkpoint")
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


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: no such file, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not a JSON object")
    return value
