"""What is to run, and the meshes that could run it."""

import dataclasses

import jax
import jax.numpy as jnp

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.formats import Form, form_of
from neox_eqx.model.int8_cache import cache_of
from neox_eqx.planning.chips import Topology
from neox_eqx.planning.message import ProgramName
from neox_eqx.presets import parameter_count
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.sizes import dtype_bits

# Meshes to try of each layout, with the largest model axes: with a smaller one a chip has more to
# read (1d) or to send (2d).
TRIED = 2
LARGEST_BATCH = 1_000_000
"""Rows; far more than memory holds, and few enough that their options still do."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """A model, a slice of a pod and a workload.

    With `train` the workload is an update by `batch_size` texts of `prompt_len` tokens.

    Raises:
        InputError: a size is not positive, or the positions are more than the model has.
    """

    config: GPTNeoXConfig
    topology: Topology
    batch_size: int
    prompt_len: int
    gen_len: int
    mesh: str = "auto"
    layout: str = "auto"
    dtype: str = "bfloat16"
    quantize: Form | None = None
    train: bool = False
    cache_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "prompt_len", "gen_len"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, not {getattr(self, name)}")
        if self.batch_size > LARGEST_BATCH:
            raise InputError(f"--batch-size is at most {LARGEST_BATCH:,}, not {self.batch_size:,}")
        asked = Arrangement.parse(self.mesh)
        if "layout" in self.mesh and self.layout not in ("auto", asked.layout):
            raise InputError(f"--mesh {self.mesh} and --layout {self.layout} contradict each other")
        cache_of(self.cache_bits)
        few_bits = self.quantize or self.cache_bits
        if self.train and (few_bits or asked.heads or "2d" in (asked.layout, self.layout)):
            raise InputError(
                "--train is without --quantize, --cache-bits, added heads and layout 2d"
            )
        context = self.config.context_length
        if self.positions > context:
            names = "--prompt-len is" if self.train else "--prompt-len and --gen-len are"
            raise InputError(f"{names} {self.positions} positions, and the model has {context}")

    @property
    def positions(self) -> int:
        """The positions of each row."""
        return self.prompt_len + (0 if self.train else self.gen_len)

    @property
    def programs(self) -> tuple[ProgramName, ...]:
        """The first decides between meshes; the others must fit as well."""
        return ("train",) if self.train else ("decode", "prefill")

    def meshes(self) -> list[str]:
        """The meshes to try, in the form that `load` and `neox-eqx generate` take.

        They have all chips and, if that can be, weights that leave room for more. Heads are added
        where that makes them divide, if they become half as many again at most.
        """
        if self.mesh != "auto":
            asked = Arrangement.parse(self.mesh)
            to_split = self.layout == "2d" and asked.layout == "1d"
            return [self.mesh + (",layout=2d" if to_split else "")]
        if self.train:
            return self._training_meshes()
        found: dict[str, list[str]] = {"1d": [], "2d": []}
        for model in _divisors(self.topology.count):
            data = self.topology.count // model
            heads = self.config.num_attention_heads
            padded = -(-heads // model) * model
            if self.config.intermediate_size % model or padded > 1.5 * heads:
                continue
            mesh = f"data={data},model={model}" + (f",heads={padded}" if padded > heads else "")
            # The largest size of model is the first, and stays even if the weights do not fit.
            if not found["1d"] or self.weight_bytes() / model < self.topology.chip.hbm_bytes:
                found["1d"].append(mesh)
            if data > 1 and self.config.hidden_size % data == 0:
                found["2d"].append(f"{mesh},layout=2d")
        layouts = ["1d", "2d"] if self.layout == "auto" else [self.layout]
        return [mesh for layout in layouts for mesh in found[layout][:TRIED]]

    def _training_meshes(self) -> list[str]:
        """The meshes to try for training, the smallest model axis first: it sums the least."""
        common = (self.config.num_attention_heads, self.config.intermediate_size)
        sizes = [
            model
            for model in reversed(_divisors(self.topology.count))
            if not any(size % model for size in common)
            and self.batch_size % (self.topology.count // model) == 0
        ]
        return [
            f"data={self.topology.count // model},model={model}" for model in sizes[: TRIED + 1]
        ]

    def weight_bytes(self) -> int:
        """The weights' size, about: what is not quantised is small."""
        size: float = 2 if self.dtype == "bfloat16" else 4
        if self.quantize:
            row = jax.ShapeDtypeStruct((1, self.config.hidden_size), jnp.float32)
            arrays = jax.eval_shape(form_of(self.quantize, "tpu").encode, row).values()
            size = sum(array.size * dtype_bits(array.dtype) / 8 for array in arrays) / row.size
        return int(parameter_count(self.config) * size)


def _divisors(count: int) -> list[int]:
    return [size for size in range(count, 0, -1) if count % size == 0]
