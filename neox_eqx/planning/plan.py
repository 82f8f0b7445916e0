"""Whether a workload fits a slice of a pod, on which mesh, and what its programs cost."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.planning.attempts import Compiler
from neox_eqx.planning.chips import Topology
from neox_eqx.presets import parameter_count
from neox_eqx.sharding.mesh import Arrangement

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to run.

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

    def __post_init__(self) -> None:
        for name in ("batch_size", "prompt_len", "gen_len"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, not {getattr(self, name)}")
        length, context = self.prompt_len + self.gen_len, self.config.context_length
        if length > context:
            raise InputError(
                f"--prompt-len and --gen-len are {length} positions, and the model has {context}"
            )

    def meshes(self) -> list[str]:
        """Those to try, in the form that `load` and generate.py take.

        They have all chips, and weights that leave room for a cache. Heads are added where that
        makes them divide, if they become half as many again at most. Of each layout only the two
        largest sizes of model: with smaller ones a chip has more to read (1d) or to send (2d).
        """
        if self.mesh != "auto":
            asked = Arrangement.parse(self.mesh)
            if self.layout == "2d" and asked.layout == "1d":
                return [f"{self.mesh},layout=2d"]
            return [self.mesh]
        found: dict[str, list[str]] = {"1d": [], "2d": []}
        for model in _divisors(self.topology.count):
            data = self.topology.count // model
            heads = self.config.num_attention_heads
            padded = -(-heads // model) * model
            if self.config.intermediate_size % model or padded > 1.5 * heads:
                continue
            mesh = f"data={data},model={model}"
            if padded > heads:
                mesh += f",heads={padded}"
            two = data > 1 and self.config.hidden_size % data == 0
            layouts = {"1d": True, "2d": two} if self.layout == "auto" else {self.layout: True}
            for layout, possible in layouts.items():
                split = model if layout == "1d" else model * data
                if possible and self.weight_bytes() / split < self.topology.chip.hbm_bytes:
                    found[layout].append(mesh + (",layout=2d" if layout == "2d" else ""))
        return found["1d"][:2] + found["2d"][:2]

    def weight_bytes(self) -> int:
        return parameter_count(self.config) * (2 if self.dtype == "bfloat16" else 4)


def _divisors(count: int) -> list[int]:
    return [size for size in range(count, 0, -1) if count % size == 0]


@dataclasses.dataclass(frozen=True)
class Tried:
    """One program on one mesh: its facts, or only how much memory it would take."""

    mesh: str
    bytes: int
    facts: dict[str, Any] | None
    weights_bytes: int = 0
    cache_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.facts is not None

    @property
    def bound_seconds(self) -> float:
        return self.facts["bound_seconds"] if self.facts else float("inf")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The mesh that is best for decode among those on which prefill fits too."""

    wish: Wish
    mesh: str
    reason: str
    decode: Tried
    prefill: Tried
    meshes: list[Tried]
    """Decode on every mesh that was tried."""
    largest_batch_size: int | None

    @property
    def fits(self) -> bool:
        return self.decode.fits and self.prefill.fits

    @property
    def hbm_bytes_per_chip(self) -> int:
        return max(self.decode.bytes, self.prefill.bytes)

    def to_json(self) -> dict[str, Any]:
        wish = self.wish
        return {
            "topology": wish.topology.name,
            "chips": wish.topology.count,
            "mesh": self.mesh,
            "layout": Arrangement.parse(self.mesh).layout,
            "reason": self.reason,
            "dtype": wish.dtype,
            "batch_size": wish.batch_size,
            "prompt_len": wish.prompt_len,
            "gen_len": wish.gen_len,
            "fits": self.fits,
            "hbm_bytes_per_chip": self.hbm_bytes_per_chip,
            "hbm_limit_bytes": wish.topology.chip.hbm_bytes,
            "weights_bytes": self.decode.weights_bytes,
            "cache_bytes": self.decode.cache_bytes,
            "largest_batch_size": self.largest_batch_size,
            "decode": self.decode.facts,
            "prefill": self.prefill.facts,
            "tried": [
                {"mesh": each.mesh, "fits": each.fits, "bytes": each.bytes}
                | ({"bound_seconds": each.bound_seconds} if each.fits else {})
                for each in self.meshes
            ],
        }


def make_plan(wish: Wish, compiler: Compiler, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Compiles decode for every mesh in question, and prefill for the best one.

    `say` is told what is being compiled. What does not fit is an answer and no error.

    Raises:
        InputError: the mesh does not divide the model, or the compiler does not know the slice.
    """

    def attempt(program: str, mesh: str, batch_size: int) -> Tried:
        say(f"{wish.topology.name}: {program} on {mesh}, {batch_size} rows")
        return _attempt(wish, compiler, program, mesh, batch_size)

    meshes = [attempt("decode", mesh, wish.batch_size) for mesh in wish.meshes()]
    if not meshes:
        weights, room = wish.weight_bytes() / GB, wish.topology.count * wish.topology.chip.hbm_bytes
        raise InputError(
            f"{wish.topology.name}: no mesh divides the model with room for its weights, "
            f"{weights:.1f} GB of {room / GB:.1f} GB in all"
        )
    ranked = sorted(meshes, key=lambda each: (each.bound_seconds, each.bytes))
    for decode in ranked:
        prefill = attempt("prefill", decode.mesh, wish.batch_size)
        if prefill.fits or not decode.fits:
            break
    else:
        decode = ranked[0]
        prefill = attempt("prefill", decode.mesh, wish.batch_size)
    largest = None
    if decode.fits and prefill.fits:
        for batch_size in _larger_batches(wish, decode, prefill):
            bigger = [attempt(name, decode.mesh, batch_size) for name in ("decode", "prefill")]
            if all(each.fits for each in bigger):
                largest = batch_size
                break
    return Plan(wish, decode.mesh, _reason(wish, decode, meshes), decode, prefill, meshes, largest)


def _attempt(wish: Wish, compiler: Compiler, program: str, mesh: str, batch_size: int) -> Tried:
    reply = compiler.ask(
        {
            "topology": wish.topology.name,
            "config": wish.config.to_hf(),
            "mesh": mesh,
            "dtype": wish.dtype,
            "program": program,
            "load": {
                "batch_size": batch_size,
                "prompt_len": wish.prompt_len,
                "gen_len": wish.gen_len,
            },
        }
    )
    if "too_large" in reply:
        return Tried(mesh, reply["too_large"], None)
    facts = reply["facts"]
    fits = reply["bytes"] <= wish.topology.chip.hbm_bytes
    return Tried(
        mesh, reply["bytes"], facts if fits else None, reply["weights_bytes"], reply["cache_bytes"]
    )


def _larger_batches(wish: Wish, *programs: Tried) -> Iterator[int]:
    """Guesses, the largest first: what a row takes is taken to be the same for every row."""
    limit = wish.topology.chip.hbm_bytes
    rows = min(
        wish.batch_size * (limit - each.weights_bytes) / (each.bytes - each.weights_bytes)
        for each in programs
    )
    for share in (1.0, 0.95, 0.9, 0.8):
        guess = int(rows * share)
        step = 8 if guess >= 16 else 1
        if guess // step * step > wish.batch_size:
            yield guess // step * step


def _reason(wish: Wish, best: Tried, meshes: list[Tried]) -> str:
    if not best.fits:
        least = min(meshes, key=lambda each: each.bytes)
        return (
            f"{least.mesh} needs the least memory, {least.bytes / GB:.1f} GB of each chip's "
            f"{wish.topology.chip.hbm_bytes / GB:.1f} GB"
        )
    others = [each for each in meshes if each.fits and each is not best]
    if not others:
        return "the only mesh that fits" if len(meshes) > 1 else "as asked"
    second = min(others, key=lambda each: each.bound_seconds)
    return (
        f"its step takes {best.bound_seconds * 1e3:.2f} ms at best, that of {second.mesh} "
        f"{second.bound_seconds * 1e3:.2f} ms"
    )
