"""Whether a workload fits a slice of a pod, on which mesh, and what its programs cost."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.model.formats import form_name
from neox_eqx.planning.attempts import Compiler
from neox_eqx.planning.message import Answer, Facts, ProgramName, Question, Workload
from neox_eqx.planning.wish import Wish
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.sizes import size_text

GB = 1e9
MOST_ROWS = 1024
"""Larger batches are not tried: the compiler would take minutes, and more chips would help more."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """One program on one mesh: its facts, or only how much memory of a chip it would take."""

    mesh: str
    bytes: int
    facts: Facts | None
    """None where it does not fit."""
    weights_bytes: int = 0
    """The bytes of the weights, or in training of the whole state."""
    cache_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.facts is not None

    @property
    def bound_seconds(self) -> float:
        return self.facts.bound_seconds if self.facts else float("inf")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The best of the meshes on which all programs of the wish fit, if there is one."""

    wish: Wish
    mesh: str
    programs: dict[ProgramName, Tried]
    meshes: list[Tried]
    """The first program on every mesh that was tried."""
    largest_batch_size: int | None = None
    """The largest batch that was tried and fits at these lengths; at most `MOST_ROWS`."""
    largest_length: int | None = None
    """Positions of the longest rows that were tried and fit; at most the model's context."""

    @property
    def fits(self) -> bool:
        return all(tried.fits for tried in self.programs.values())

    @property
    def reason(self) -> str:
        return _reason(self)

    @property
    def hbm_bytes_per_chip(self) -> int:
        return max(tried.bytes for tried in self.programs.values())

    def to_json(self) -> dict[str, Any]:
        wish, first = self.wish, self.programs[self.wish.programs[0]]
        return {
            "topology": wish.topology.name,
            "chips": wish.topology.count,
            "mesh": self.mesh,
            "layout": Arrangement.parse(self.mesh).layout,
            "reason": self.reason,
            "dtype": wish.dtype,
            "quantize": form_name(wish.quantize) if wish.quantize else None,
            "cache_bits": wish.cache_bits,
            "batch_size": wish.batch_size,
            "prompt_len": wish.prompt_len,
            "gen_len": None if wish.train else wish.gen_len,
            "fits": self.fits,
            "hbm_bytes_per_chip": self.hbm_bytes_per_chip,
            "hbm_limit_bytes": wish.topology.chip.hbm_bytes,
            "weights_bytes": first.weights_bytes,
            "cache_bytes": first.cache_bytes,
            "largest_batch_size": self.largest_batch_size,
            "largest_length": self.largest_length,
            **{
                name: dataclasses.asdict(tried.facts) if tried.facts else None
                for name, tried in self.programs.items()
            },
            "tried": [
                {"mesh": each.mesh, "fits": each.fits, "bytes": each.bytes}
                | ({"bound_seconds": each.bound_seconds} if each.fits else {})
                for each in self.meshes
            ],
        }


def make_plan(wish: Wish, compiler: Compiler, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Compiles the first program for every mesh in question, and the others for the best ones.

    `say` is told what is being compiled. What does not fit is an answer and no error.

    Raises:
        InputError: no mesh divides the model, or the compiler does not know the slice.
    """
    first, *others = wish.programs
    meshes = [_attempt(wish, compiler, first, mesh, say) for mesh in wish.meshes()]
    if not meshes:
        raise InputError(_no_mesh(wish))
    plans = []
    for best in sorted(meshes, key=lambda each: (each.bound_seconds, each.bytes)):
        rest = {name: _attempt(wish, compiler, name, best.mesh, say) for name in others}
        plans.append(Plan(wish, best.mesh, {first: best} | rest, meshes))
        if plans[-1].fits or not best.fits:
            break
    plan = plans[-1] if plans[-1].fits else plans[0]
    if not plan.fits:
        return plan

    def fits(larger: Wish) -> bool:
        tried = (_attempt(larger, compiler, name, plan.mesh, say) for name in plan.programs)
        return all(each.fits for each in tried)

    batches = next(filter(fits, _larger_batches(plan)), wish)
    lengths = next(filter(fits, _longer_rows(plan)), wish)
    return dataclasses.replace(
        plan, largest_batch_size=batches.batch_size, largest_length=lengths.positions
    )


def _attempt(
    wish: Wish, compiler: Compiler, program: ProgramName, mesh: str, say: Callable[[str], None]
) -> Tried:
    say(f"{wish.topology.name}: {program} on {mesh}, {wish.batch_size} rows")
    question = Question(
        topology=wish.topology.name,
        mesh=mesh,
        program=program,
        load=Workload(wish.batch_size, wish.prompt_len, wish.gen_len),
        config=wish.config,
        dtype=wish.dtype,
        quantize=wish.quantize,
        cache_bits=wish.cache_bits,
    )
    answer = Answer.from_json(compiler.ask(question.to_json()))
    facts = answer.facts if answer.bytes <= wish.topology.chip.hbm_bytes else None
    return Tried(mesh, answer.bytes, facts, answer.weights_bytes, answer.cache_bytes)


def _larger_batches(plan: Plan) -> Iterator[Wish]:
    """Wishes for larger batches that might fit, the largest first."""
    wish = plan.wish
    asked = Arrangement.parse(plan.mesh)
    data = asked.data or (wish.topology.count // (asked.model or 1))
    # Programs are compiled for batches that divide over the data axis.
    rows = min((wish.batch_size + -wish.batch_size % data) * _room(plan), MOST_ROWS)
    step = data * (8 if rows >= 16 * data else 1)
    for share in (1.0, 0.95, 0.9, 0.8):
        guess = int(rows * share) // step * step
        if guess > wish.batch_size:
            yield dataclasses.replace(wish, batch_size=guess)


def _longer_rows(plan: Plan) -> Iterator[Wish]:
    """Wishes for longer rows that might fit, the longest first, with as large a share of prompt."""
    wish = plan.wish
    longest = min(wish.config.context_length, int(wish.positions * _room(plan)))
    for share in (1.0, 0.9, 0.75, 0.6):
        length = int(longest * share)
        if length > wish.positions:
            prompt = length * wish.prompt_len // wish.positions
            yield dataclasses.replace(
                wish, prompt_len=prompt, gen_len=wish.gen_len if wish.train else length - prompt
            )


def _room(plan: Plan) -> float:
    """How many times the workload would fit, if all memory but the weights grows with it."""
    limit = plan.wish.topology.chip.hbm_bytes
    return min(
        (limit - each.weights_bytes) / (each.bytes - each.weights_bytes)
        for each in plan.programs.values()
    )


def _no_mesh(wish: Wish) -> str:
    weights, room = wish.weight_bytes(), wish.topology.count * wish.topology.chip.hbm_bytes
    return (
        f"{wish.topology.name}: no mesh of {wish.topology.count} chips divides the model"
        + (f" and {wish.batch_size} rows" if wish.train else "")
        + f" with room for its weights, {size_text(weights)} of {size_text(room)} in all"
    )


def _reason(plan: Plan) -> str:
    """Why this mesh was chosen; of the other meshes only the first program is known."""
    if not plan.fits:
        return "needs the least memory, and does not fit"
    if plan.wish.mesh != "auto":
        return "asked for"
    best = plan.programs[plan.wish.programs[0]]
    others = [each for each in plan.meshes if each.fits and each.mesh != plan.mesh]
    if not others:
        return "the only one that fits"
    second = min(others, key=lambda each: each.bound_seconds)
    own, other = best.bound_seconds * 1e3, second.bound_seconds * 1e3
    if other < own:
        return (
            f"a step takes {own:.2f} ms at best; on {second.mesh} {other:.2f} ms, but not all fits"
        )
    return f"a step takes {own:.2f} ms at best, and on {second.mesh} {other:.2f} ms"
