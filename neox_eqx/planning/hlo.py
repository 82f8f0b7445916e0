"""The text of a compiled program as a small structure: computations and their instructions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from neox_eqx.errors import InputError
from neox_eqx.planning.shapes import Shape, read_shapes

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r" ?([\w-]+)\(")
_CALLS = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%[\w.-]+)"
)


@dataclass(frozen=True)
class Instruction:
    """One line: `%name = shapes opcode(operands), attributes`."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """The arrays of its result; of a tuple all of them, one after the other."""
    operands: tuple[str, ...]
    """The names of the instructions whose results it takes."""
    literal: str
    """The text between the parentheses: a parameter's number, a constant's value."""
    attributes: str

    @property
    def calls(self) -> tuple[str, ...]:
        """The computations that it runs or applies, in the order in which they are named."""
        named = " ".join(_CALLS.findall(self.attributes))
        return tuple(re.findall(r"%([\w.-]+)", named))

    def called(self, role: str) -> str:
        """The computation in one role: "body", "condition" or "calls"."""
        match = re.search(rf"\b{role}=%([\w.-]+)", self.attributes)
        if not match:
            raise InputError(f"{self.opcode} {self.name} names no {role}")
        return match[1]

    @property
    def index(self) -> int:
        """Which element of its operand a get-tuple-element takes."""
        match = re.search(r"\bindex=(\d+)", self.attributes)
        if not match:
            raise InputError(f"{self.opcode} {self.name} names no index")
        return int(match[1])


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction
    """The one whose result is the computation's."""

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {int(each.literal): each for each in self if each.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """For each name the instructions that take its result, each listed once."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users


def read_computations(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of its entry.

    Raises:
        InputError: the text is not that of a compiled module.
    """
    computations: dict[str, Computation] = {}
    entry, name = None, None
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                name, lines = header[2], []
                entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = _read_computation(name, lines)
            name = None
        else:
            lines.append(line)
    if entry is None:
        raise InputError("this text has no ENTRY computation; compile().as_text() prints one")
    return computations, entry


def _read_computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, None
    for line in lines:
        start = _INSTRUCTION.match(line)
        if not start:
            continue
        instruction = _read_instruction(start[2], re.sub(r"/\*.*?\*/", "", line[start.end() :]))
        instructions[instruction.name] = instruction
        root = instruction if start[1] else root
    if root is None:
        raise InputError(f"the computation {name} has no ROOT instruction")
    return Computation(name, instructions, root)


def _read_instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if end < 0 or not opcode:
        raise InputError(f"the instruction {name} has no opcode: {text[:80]!r}")
    close = _closing(text, opcode.end() - 1)
    literal = text[opcode.end() : close - 1]
    return Instruction(
        name=name,
        opcode=opcode[1],
        shapes=read_shapes(text[:end]),
        operands=tuple(re.findall(r"%([\w.-]+)", literal)),
        literal=literal,
        attributes=text[close:],
    )


def _closing(text: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise InputError(f"a parenthesis is not closed in {text[:80]!r}")
