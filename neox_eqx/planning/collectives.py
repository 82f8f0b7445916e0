"""What chips send each other: the collectives that an instruction starts."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from neox_eqx.planning.hlo import Computation, Instruction

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_ORDER = r"(?:, device_ids=\(.*?\))?"
"""In which order the chips fill a mesh, where that is not their own."""


@dataclass(frozen=True)
class Collective:
    """A collective that runs `times` in all: once in each trip of the `loops` around it."""

    name: str
    kind: str
    """One of `KINDS`. A sum fused with the slice that is kept of it is a reduce-scatter."""
    payload_bytes: int
    """Of one execution on one chip, without tile padding: what it sums (all-reduce and
    reduce-scatter: the operands), what it ends up with (all-gather: the results), or what it
    sends and keeps (all-to-all and collective-permute: the operands)."""
    dtype: str
    group_size: int
    """How many chips take part together; of a permutation, how many send or receive."""
    loops: tuple[int, ...]
    """The trip counts of the loops around it, the outermost first."""
    chain: str | None = None
    """What joins the parts of a collective that runs beside other work: the fusions that start it,
    go on with it and end it each hold a copy, with the same channel and chain numbers."""
    beside_work: bool = False
    """It runs while the chip computes something else."""

    @property
    def times(self) -> int:
        return math.prod(self.loops)


def collectives_of(
    computations: dict[str, Computation],
    computation: Computation,
    instruction: Instruction,
    loops: tuple[int, ...],
    devices: int,
) -> Iterator[Collective]:
    """The collectives that `instruction` starts, itself or in a computation fused into it.

    A `-done` starts nothing, and neither does a collective within groups of one chip.
    `devices` is the size of the group of a collective that names no groups.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
        size = _group_size(instruction, devices)
        if size > 1:
            operands = [
                shape for each in computation.operands(instruction) for shape in each.shapes
            ]
            gathered = [shape for each in _done(computation, instruction) for shape in each.shapes]
            channel = re.search(r"\bchannel_id=\d+", instruction.attributes)
            chain = re.search(r'\bchain_id="\d+"', instruction.attributes)
            moved = gathered if kind == "all-gather" else operands
            yield Collective(
                name=instruction.name,
                kind=kind,
                payload_bytes=sum(shape.logical_bytes for shape in moved),
                dtype=moved[0].dtype,
                group_size=size,
                loops=loops,
                chain=f"{channel and channel[0]},{chain[0]}" if chain else None,
                beside_work=instruction.opcode.endswith("-start"),
            )
    elif kind in ("fusion", "async"):
        called = computations[instruction.called("calls")]
        for inner in called:
            for each in collectives_of(computations, called, inner, loops, devices):
                scattered = inner.opcode == "all-reduce" and _keeps_a_slice(called, inner)
                yield replace(each, kind="reduce-scatter") if scattered else each


def _done(computation: Computation, instruction: Instruction) -> list[Instruction]:
    """The instructions that give its results: itself, or those that wait for it."""
    if not instruction.opcode.endswith("-start"):
        return [instruction]
    return [user for user in computation.users[instruction.name] if user.opcode.endswith("-done")]


def _keeps_a_slice(called: Computation, instruction: Instruction) -> bool:
    """Whether a fusion sums and keeps a slice alone, as a TPU's reduce-scatter does."""
    users = called.users[instruction.name]
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def _group_size(instruction: Instruction, devices: int) -> int:
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(.*?\})\}", text):
        moves = [pair.split(",") for pair in re.findall(r"\{(\d+,\d+)\}", pairs[1])]
        return len({chip for here, there in moves if here != there for chip in (here, there)})
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(counted[1])
    if meshed := re.search(r"replica_groups=mesh\[(.*?)\]" + _ORDER + r" ?\{(.*?)\}", text):
        return _mesh_group_size(meshed[1], meshed[2])
    return devices


def _mesh_group_size(mesh: str, axes: str) -> int:
    """For the mesh `'a'=4,'b'=8` and the axes `'a','b':(2)4`, of which the second is a part."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
