"""What the process that plans asks the one that compiles, and what that answers, as JSON."""

import dataclasses
import importlib
from typing import Any, Literal

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.formats import Form
from neox_eqx.model.quantized import QuantizedLinear

ProgramName = Literal["decode", "prefill", "train"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a program is to do."""

    batch_size: int
    """Rows."""
    prompt_len: int
    """Tokens of each prompt or, in training, of each text."""
    gen_len: int
    """Tokens that are generated after each prompt."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One program on one mesh, to be compiled."""

    topology: str
    mesh: str
    program: ProgramName
    load: Workload
    config: GPTNeoXConfig
    dtype: str
    quantize: Form | None
    cache_bits: int | None = None

    def to_json(self) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return own | {
            "load": dataclasses.asdict(self.load),
            "config": self.config.to_hf(),
            "quantize": _where_defined(self.quantize),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Question":
        return cls(
            topology=values["topology"],
            mesh=values["mesh"],
            program=values["program"],
            load=Workload(**values["load"]),
            config=GPTNeoXConfig.from_hf(values["config"]),
            dtype=values["dtype"],
            quantize=_form(values.get("quantize")),
            cache_bits=values.get("cache_bits"),
        )


def _where_defined(form: Form | None) -> str | None:
    """The name of a form that the package has, or where the other process finds the class."""
    return f"{form.__module__}:{form.__qualname__}" if isinstance(form, type) else form


def _form(name: str | None) -> Form | None:
    if name is None or ":" not in name:
        return name
    module, _, qualified = name.partition(":")
    form: type[QuantizedLinear] = getattr(importlib.import_module(module), qualified)
    return form


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a program does and takes on one chip; decode is one step, a token for every row."""

    all_reduce_per_layer: float
    """In the loop over the layers; 0 where there is no loop, as with a single layer."""
    all_reduce: int
    """How often all-reduces run in all; the other collectives are counted so too."""
    all_gather: int
    reduce_scatter: int
    all_to_all: int
    collective_permute: int
    collective_bytes: int
    """The payload that all of them sum or move."""
    hbm_bytes: int
    hbm_bytes_minimum: int
    """The least that must move: each weight, key and value once."""
    hbm_ratio: float
    flops: float
    """The operations that the model needs, without any that are done twice."""
    bound_seconds: float
    """What the chip's rates allow at best, no prediction: the longest of what overlaps (memory,
    matrices, and collectives that run beside other work), and then the collectives that the
    program waits for. Those take at least `facts.HOP_SECONDS` for each chip on the way."""
    memory_seconds: float
    matrix_seconds: float
    links_seconds: float
    temp_bytes: int
    peak_bytes: int
    """The memory of arguments, results and temporaries."""
    cache_aliased: bool
    """Whether the keys and values, or in training the state, are written in place."""
    compile_seconds: float
    dtypes: dict[str, list[str]]
    """The dtypes that each kind of collective moves, in payloads of a megabyte or more."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the compiler made of a question. Bytes are of one chip."""

    bytes: int
    """The most memory that is in use at any time, or would be."""
    weights_bytes: int
    """The bytes of the weights, or in training of the whole state."""
    cache_bytes: int = 0
    facts: Facts | None = None
    """None where the compiler refuses the program as larger than the chip's memory."""

    def to_json(self) -> dict[str, Any]:
        if self.facts is None:
            return {"too_large": self.bytes, "weights_bytes": self.weights_bytes}
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Answer":
        if "too_large" in values:
            return cls(values["too_large"], values["weights_bytes"])
        return cls(**values | {"facts": Facts(**values["facts"])})
