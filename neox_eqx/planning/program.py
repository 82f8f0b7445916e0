"""A compiled program: which instructions run, how often, and what they cost in all."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from neox_eqx.errors import InputError
from neox_eqx.planning.collectives import Collective, collectives_of
from neox_eqx.planning.hlo import Computation, Instruction, read_computations
from neox_eqx.planning.loops import Loops
from neox_eqx.planning.moves import Moves
from neox_eqx.planning.traffic import Traffic


@dataclass(frozen=True)
class Run:
    """An instruction that runs once in each trip of the loops around it."""

    computation: Computation
    instruction: Instruction
    loops: tuple[int, ...]
    """Their trip counts, the outermost first."""

    @property
    def times(self) -> int:
        return math.prod(self.loops)


@dataclass(frozen=True)
class Cost:
    """What an instruction touches in HBM."""

    name: str
    opcode: str
    read_bytes: int
    """In one execution, as `written_bytes` are."""
    written_bytes: int
    times: int
    description: str
    """What the operation was called in the model, and the shapes that go in and come out."""

    @property
    def bytes(self) -> int:
        """Read and written, by all executions."""
        return self.times * (self.read_bytes + self.written_bytes)


@dataclass(frozen=True)
class Program:
    """One chip's program, or the part of it that `start` begins."""

    computations: dict[str, Computation] = field(repr=False)
    start: str
    """The computation that runs: the entry, or the body of a loop."""
    devices: int
    """How many chips run the program together."""

    def loop_body(self) -> "Program":
        """One trip of the only loop here whose trip count is not known: one token of decoding.

        Raises:
            InputError: there is no such loop, or there are several.
        """
        trips = Loops(self.computations).trips
        loops = [each for each in self.computations[self.start] if each.opcode == "while"]
        open_ended = [loop for loop in loops if trips(loop) is None]
        if len(open_ended) != 1:
            raise InputError(
                f"{self.start} has {len(open_ended)} loops of unknown length, where one is meant"
            )
        return Program(self.computations, open_ended[0].called("body"), self.devices)

    def collectives(self) -> list[Collective]:
        """The collectives that one execution runs, in the order in which they start.

        Raises:
            InputError: the trip count of a loop is not known; `loop_body()` is one trip of it.
        """
        found: list[Collective] = []
        indices: dict[tuple[str, str], int] = {}
        for run in self.runs():
            for each in collectives_of(
                self.computations, run.computation, run.instruction, run.loops, self.devices
            ):
                key = (run.computation.name, each.chain or each.name)
                if key not in indices:
                    indices[key] = len(found)
                    found.append(each)
                else:  # a part of one that runs beside other work
                    found[indices[key]] = replace(found[indices[key]], beside_work=True)
        return found

    def hbm_bytes(self) -> int:
        """The bytes that one execution reads from and writes to HBM: see `traffic`.

        Raises:
            InputError: as for `collectives()`.
        """
        return sum(cost.bytes for cost in self.hbm_by_instruction())

    def hbm_by_instruction(self) -> list[Cost]:
        """The instructions that touch HBM, those that touch the most bytes first.

        Raises:
            InputError: as for `collectives()`.
        """
        return sorted(
            (cost for run in self.runs() if (cost := self._cost(run)).bytes),
            key=lambda cost: -cost.bytes,
        )

    def copies(self, at_least: int) -> list[Cost]:
        """The instructions that only move data within HBM, `at_least` so many bytes at a time.

        Copies, transpositions, changes of layout or type, and whole arrays written into others,
        whether straight or by way of the vector memory. Sorted as `hbm_by_instruction()`.

        Raises:
            InputError: as for `collectives()`.
        """
        moves = Moves(self.computations)
        found = [
            cost
            for run in self.runs()
            if (cost := self._cost(run)).written_bytes >= at_least
            and moves.from_hbm(run.computation, run.instruction, at_least)
        ]
        return sorted(found, key=lambda cost: -cost.bytes)

    def runs(self) -> Iterator[Run]:
        """The instructions that one execution runs; every branch of a conditional counts."""
        yield from self._runs(self.computations[self.start], (), Loops(self.computations))

    def _runs(
        self, computation: Computation, loops: tuple[int, ...], counts: Loops
    ) -> Iterator[Run]:
        for instruction in computation:
            yield Run(computation, instruction, loops)
            if instruction.opcode == "while":
                trips = counts.trips(instruction)
                if trips is None:
                    raise InputError(
                        f"how often the loop {instruction.name} runs only its data tell; "
                        "loop_body() is one trip"
                    )
                for role in ("condition", "body"):
                    called = self.computations[instruction.called(role)]
                    yield from self._runs(called, (*loops, trips), counts)
            elif instruction.opcode in ("call", "conditional"):
                for name in instruction.calls:
                    yield from self._runs(self.computations[name], loops, counts)

    def _cost(self, run: Run) -> Cost:
        traffic = Traffic(self.computations)
        return Cost(
            name=run.instruction.name,
            opcode=run.instruction.opcode,
            read_bytes=sum(traffic.reads(run.computation, run.instruction).values()),
            written_bytes=traffic.writes(run.computation, run.instruction),
            times=run.times,
            description=_describe(run),
        )


def read_program(text: str) -> Program:
    """The program of a compiled module, from the text that `compile().as_text()` gives.

    Raises:
        InputError: the text is not that of a compiled module.
    """
    computations, entry = read_computations(text)
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    return Program(computations, entry, math.prod(map(int, counts)))


def _describe(run: Run) -> str:
    origin = re.search(r'op_name="([^"]*)"', run.instruction.attributes)
    inputs = sorted(
        (shape for each in run.computation.operands(run.instruction) for shape in each.shapes),
        key=lambda shape: -shape.bytes,
    )
    shapes = f"{', '.join(map(str, inputs[:2]))} -> {', '.join(map(str, run.instruction.shapes))}"
    return f"{origin[1].rpartition('/')[2]}: {shapes}" if origin else shapes
