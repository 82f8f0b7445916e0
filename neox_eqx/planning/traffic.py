"""The bytes that one execution of an instruction reads from and writes to a chip's HBM.

Bytes count where they are touched. An operand in HBM is read whole and once, unless only slices of
it are taken; a result in HBM is written whole, unless it is an operand with a part overwritten.
A slice or an update counts with its padded size in the layout that the compiler gives it, which is
what moves: for one row of the 8 in a tile the packed rows that hold it, for one lane all 128. An
update that fills a tile only in part is read as well as written.

Kernels of custom calls are not looked into. They count with their own estimate of the bytes
where they state one, and otherwise with all of their operands and results.
"""

import re
from dataclasses import dataclass

from neox_eqx.errors import InputError
from neox_eqx.planning.fusions import Fusions
from neox_eqx.planning.hlo import Computation, Instruction
from neox_eqx.planning.shapes import Shape
from neox_eqx.planning.slices import DECLARED_ALIAS, SLICES, UPDATES, rereads, update_of

_FREE = {
    "add-dependency",
    "after-all",
    "async-update",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}


@dataclass(frozen=True)
class Traffic:
    """The bytes that the instructions of a program touch.

    A pair of `-start` and `-done` counts at its start.
    """

    computations: dict[str, Computation]

    def reads(self, computation: Computation, instruction: Instruction) -> dict[str, int]:
        """For each operand, by name, the bytes of it that are read from HBM."""
        if self._is_free(instruction) or not instruction.operands:
            return {}
        opcode, first = instruction.opcode.removesuffix("-start"), instruction.operands[0]
        whole = {each.name: _in_hbm(each.shapes) for each in computation.operands(instruction)}
        if opcode in ("fusion", "async"):
            shares = Fusions(self.computations).shares(instruction)
            return {name: round(shares[name] * size) for name, size in whole.items()}
        if opcode in UPDATES:
            overwritten = self.writes(computation, instruction)
            return whole | {first: overwritten if rereads(computation, instruction) else 0}
        if opcode in SLICES:
            piece = sum(shape.bytes for shape in _results(computation, instruction))
            return whole | {first: min(whole[first], piece)}
        estimate = _own_estimate(instruction)
        return {first: estimate} if estimate else whole

    def writes(self, computation: Computation, instruction: Instruction) -> int:
        """The bytes that are written to HBM."""
        if self._is_free(instruction) or _own_estimate(instruction):
            return 0
        opcode = instruction.opcode.removesuffix("-start")
        results = _results(computation, instruction)
        if opcode in ("fusion", "async"):
            return Fusions(self.computations).written(instruction, results)
        if opcode in UPDATES:
            return min(_in_hbm(results), update_of(computation, instruction).bytes)
        return _in_hbm(results)

    def _is_free(self, instruction: Instruction) -> bool:
        if instruction.opcode == "fusion" and DECLARED_ALIAS.search(instruction.attributes):
            # A view of an operand in other tiles: its result is the operand's own buffer.
            called = self.computations[instruction.called("calls")]
            return all(each.opcode in ("bitcast", "copy", "parameter") for each in called)
        return (
            instruction.opcode in _FREE
            or instruction.opcode.endswith("-done")
            or 'custom_call_target="AllocateBuffer"' in instruction.attributes
        )


def _results(computation: Computation, instruction: Instruction) -> tuple[Shape, ...]:
    """The arrays of a result; of a pair of `-start` and `-done` those that are done."""
    if not instruction.opcode.endswith(("-start", "-update")):
        return instruction.shapes
    for user in computation.users[instruction.name]:
        if user.opcode.endswith(("-done", "-update")):
            return _results(computation, user)
    raise InputError(f"{instruction.opcode} {instruction.name} is never done")


def _in_hbm(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.hbm_bytes for shape in shapes)


def _own_estimate(instruction: Instruction) -> int:
    if instruction.opcode != "custom-call":
        return 0
    match = re.search(r'"bytes_accessed":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0
