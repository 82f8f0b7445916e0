"""Which instructions compute nothing: they only carry bytes from one place to another."""

from dataclasses import dataclass

from neox_eqx.planning.hlo import Computation, Instruction
from neox_eqx.planning.shapes import HBM
from neox_eqx.planning.slices import overwritten
from neox_eqx.planning.traffic import Traffic

_MOVING = {
    "bitcast",
    "concatenate",
    "convert",
    "copy",
    "dynamic-slice",
    "dynamic-update-slice",
    "get-tuple-element",
    "pad",
    "reshape",
    "reverse",
    "slice",
    "transpose",
    "tuple",
}
_WITHOUT_DATA = {"constant", "iota", "parameter", "partition-id"}


@dataclass(frozen=True)
class Moves:
    """What the instructions of a program move."""

    computations: dict[str, Computation]

    def from_hbm(self, computation: Computation, value: Instruction, at_least: int) -> bool:
        """Whether `value` only moves data, `at_least` so many bytes, from HBM into its result.

        They come straight, or by way of another memory into which they were only moved.
        """
        if value.opcode.endswith("-done"):
            return self.from_hbm(computation, computation[value.operands[0]], at_least)
        if not self._only_moves(value):
            return False
        reads = Traffic(self.computations).reads(computation, value)
        targets = {value.operands[number] for number in overwritten(value).values()}
        sources = [read for name, read in reads.items() if name not in targets]
        return sum(sources) >= at_least or any(
            self.from_hbm(computation, operand, at_least)
            for operand in computation.operands(value)
            if sum(shape.bytes for shape in operand.shapes if shape.space != HBM) >= at_least
        )

    def _only_moves(self, instruction: Instruction) -> bool:
        if instruction.opcode == "fusion":
            called = self.computations[instruction.called("calls")]
            return all(
                each.opcode in _WITHOUT_DATA or self._only_moves(each) or _joins(called, each)
                for each in called
            )
        return instruction.opcode.removesuffix("-start") in _MOVING


def _joins(called: Computation, instruction: Instruction) -> bool:
    """Whether it concatenates arrays, which a TPU does as the maximum of padded ones."""
    if instruction.opcode in ("convert", "bitcast", "maximum"):
        return all(_joins(called, operand) for operand in called.operands(instruction))
    return instruction.opcode == "pad"
