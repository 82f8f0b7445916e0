"""How often the loops of a program run, where its text tells.

The compiler writes a loop over layers as a `while` that carries a tuple. Its condition compares
one element of the tuple with a bound, and its body passes that element on with a constant added.
"""

import re
from dataclasses import dataclass, field

from neox_eqx.planning.hlo import Computation, Instruction

_FORWARDING = {"copy", "bitcast", "reshape", "convert", "copy-start", "copy-done"}
_MIRRORED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}


@dataclass(frozen=True)
class _Value:
    """The result of an instruction, or one element of its tuple."""

    computation: Computation
    instruction: Instruction
    element: int | None = None


@dataclass(frozen=True)
class Loops:
    """The trip counts of the loops in `computations`."""

    computations: dict[str, Computation]
    _callers: dict[str, tuple[Computation, Instruction]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        callers = {
            name: (computation, instruction)
            for computation in self.computations.values()
            for instruction in computation
            for name in instruction.calls
        }
        object.__setattr__(self, "_callers", callers)

    def trips(self, loop: Instruction) -> int | None:
        """How often the body of a `while` runs, or None where that depends on data."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        test = self._origin(_Value(condition, condition.root))
        direction = re.search(r"\bdirection=(\w+)", test.instruction.attributes)
        if not direction:  # no comparison
            return None
        left, right = self._operands(test)
        mirrored = _MIRRORED.get(direction[1], direction[1])
        for value, compare, other in ((left, direction[1], right), (right, mirrored, left)):
            counter, bound = self._counter(value, loop), self._constant(other)
            if counter is not None and bound is not None:
                return self._count(loop, counter, compare, bound)
        return None

    def _count(self, loop: Instruction, counter: int, compare: str, bound: int) -> int | None:
        """The trips of a loop that runs while `compare` holds between `counter` and `bound`."""
        outer, _ = self._callers[loop.called("body")]
        start = self._constant(_Value(outer, outer[loop.operands[0]], counter))
        step = self._step(loop, counter)
        if start is None or not step:
            return None
        distance = bound - start if step > 0 else start - bound
        if compare == "NE":
            return distance // abs(step) if distance >= 0 and distance % step == 0 else None
        if compare not in (("LT", "LE") if step > 0 else ("GT", "GE")):
            return None
        distance += compare in ("LE", "GE")
        return max(0, -(-distance // abs(step)))

    def _step(self, loop: Instruction, counter: int) -> int | None:
        """What the body adds to an element of the tuple."""
        body = self.computations[loop.called("body")]
        new = self._origin(_Value(body, body.root, counter))
        if new.instruction.opcode not in ("add", "subtract"):
            return None
        left, right = self._operands(new)
        if new.instruction.opcode == "add" and self._counter(left, loop) != counter:
            left, right = right, left
        step = self._constant(right)
        if step is None or self._counter(left, loop) != counter:
            return None
        return step if new.instruction.opcode == "add" else -step

    def _constant(self, value: _Value) -> int | None:
        """The value of a constant, also where loops only pass it on; else None."""
        origin = self._origin(value)
        if origin.instruction.opcode == "constant":
            return int(origin.instruction.literal) if _is_whole(origin.instruction) else None
        loop = self._loop_of(origin)
        if loop is None or origin.element is None:
            return None
        body = self.computations[loop.called("body")]
        passed_on = self._origin(_Value(body, body.root, origin.element))
        if self._counter(passed_on, loop) != origin.element:
            return None
        outer, _ = self._callers[body.name]
        return self._constant(_Value(outer, outer[loop.operands[0]], origin.element))

    def _counter(self, value: _Value, loop: Instruction) -> int | None:
        """The index of a value in the tuple that `loop` carries, if it is in there."""
        origin = self._origin(value)
        return origin.element if self._loop_of(origin) is loop else None

    def _loop_of(self, origin: _Value) -> Instruction | None:
        """The loop that carries a value, as its tuple or as an element of it."""
        if origin.instruction.opcode == "while":
            return origin.instruction
        if origin.instruction.opcode != "parameter":
            return None
        _, caller = self._callers.get(origin.computation.name, (None, None))
        return caller if caller is not None and caller.opcode == "while" else None

    def _operands(self, value: _Value) -> list[_Value]:
        operands = value.computation.operands(value.instruction)
        return [self._origin(_Value(value.computation, operand)) for operand in operands]

    def _origin(self, value: _Value) -> _Value:
        """Where a value comes from: past copies and tuples, into and out of fusions."""
        while True:
            computation, instruction = value.computation, value.instruction
            element = value.element
            if instruction.opcode == "get-tuple-element" and element is None:
                operand = computation[instruction.operands[0]]
                value = _Value(computation, operand, instruction.index)
            elif instruction.opcode == "tuple" and element is not None:
                value = _Value(computation, computation[instruction.operands[element]])
            elif instruction.opcode in _FORWARDING:
                value = _Value(computation, computation[instruction.operands[0]])
            elif instruction.opcode == "fusion":
                called = self.computations[instruction.called("calls")]
                value = _Value(called, called.root, element)
            elif instruction.opcode == "parameter" and computation.name in self._callers:
                outer, caller = self._callers[computation.name]
                if caller.opcode != "fusion":
                    return value
                operand = outer[caller.operands[int(instruction.literal)]]
                value = _Value(outer, operand, element)
            else:
                return value


def _is_whole(constant: Instruction) -> bool:
    return re.fullmatch(r"-?\d+", constant.literal) is not None
