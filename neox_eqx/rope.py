"""The rotary position embedding of one model, as a config.json describes it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.field_types import known_fields
from neox_eqx.shown import shown

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
DEFAULT_POSITIONS = 2048
"""`max_position_embeddings` where a config.json does not say."""


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
                f"rope_type {shown(self.rope_type)} is not supported; "
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
            raise InputError(f"rope_type {shown(self.rope_type)} needs {', '.join(missing)}")
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
            raise InputError(f"{key} must be an object, not {shown(nested)}")
        nested = dict(nested)
        nested.setdefault("rope_theta", hf.get("rotary_emb_base", 10000))
        nested.setdefault("partial_rotary_factor", hf.get("rotary_pct", 0.25))
        nested.setdefault("rope_type", nested.get("type", "default"))
        if nested["rope_type"] in ("yarn", "llama3"):
            # Unlike every other key, this one wins at the top level.
            name = "original_max_position_embeddings"
            positions = hf.get("max_position_embeddings", DEFAULT_POSITIONS)
            nested[name] = hf.get(name, nested.get(name, positions))
        return cls(**known_fields(cls, nested))

    def to_hf(self) -> dict[str, Any]:
        """The `rope_parameters` object of a config.json, without the keys that are not used."""
        values = dataclasses.asdict(self)
        set_keys = {key: value for key, value in values.items() if value is not None}
        if self.rope_type != "yarn":
            del set_keys["truncate"]
        return set_keys
