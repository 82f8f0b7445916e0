"""The bytes that one execution of an instruction reads from and writes to a chip's HBM.

What counts is what is touched. An operand in HBM is read whole and once, unless only slices of
it are taken; a result in HBM is written whole, unless it is an operand with a part overwritten.
A slice, or an update, counts with its own padded size in the layout that the compiler gives it,
which is how it moves: one row of 8 that share a tile as the packed rows that hold it, one lane
as all 128. An update that fills its tiles only in part is read as well as written.

Kernels of custom calls are not looked into. They count with their own estimate of the bytes
where they state one, and otherwise with all of their operands and results.
"""

import re
from dataclasses import dataclass

from neox_eqx.errors import InputError
from neox_eqx.planning.hlo import Computation, Instruction
from neox_eqx.planning.shapes import HBM, Shape

SLICES = {"slice", "dynamic-slice", "gather"}
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Which operand holds what is written over a part of the first one."""
_SAME_ELEMENTS = {"bitcast", "convert", "copy", "reshape", "transpose"}
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

_OWN_ALIASES = re.compile(r'\{"indices":\[([^\]]*)\]\}')
_DECLARED_ALIASES = re.compile(r"\{(\d*)\}: \((\d+), \{\}\)")


@dataclass(frozen=True)
class Traffic:
    """What the instructions of a program touch.

    A pair of `-start` and `-done` counts at its start.
    """

    computations: dict[str, Computation]

    def reads(self, computation: Computation, instruction: Instruction) -> dict[str, int]:
        """For each operand, by name, the bytes of it that are read from HBM."""
        opcode = instruction.opcode.removesuffix("-start")
        operands = {each.name: each for each in computation.operands(instruction)}
        whole = {name: sum(map(_hbm_bytes, each.shapes)) for name, each in operands.items()}
        if self._is_free(instruction) or not operands:
            return {}
        first = instruction.operands[0]
        if opcode in ("fusion", "async"):
            shares = self._shares(instruction)
            return {name: round(shares[name] * whole[name]) for name in operands}
        if opcode in UPDATES:
            overwritten = self.writes(computation, instruction)
            return whole | {first: overwritten if _rereads(computation, instruction) else 0}
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
            return self._written_by_fusion(instruction, results)
        written = sum(map(_hbm_bytes, results))
        return (
            min(written, _update(computation, instruction).bytes) if opcode in UPDATES else written
        )

    def _is_free(self, instruction: Instruction) -> bool:
        if instruction.opcode == "fusion" and _DECLARED_ALIASES.search(instruction.attributes):
            # A view of an operand in other tiles: its result is the operand's own buffer.
            called = self.computations[instruction.called("calls")]
            return all(each.opcode in ("bitcast", "copy", "parameter") for each in called)
        return (
            instruction.opcode in _FREE
            or instruction.opcode.endswith("-done")
            or 'custom_call_target="AllocateBuffer"' in instruction.attributes
        )

    def _shares(self, fusion: Instruction) -> dict[str, float]:
        """How much of each operand a fusion reads, from 0 to 1."""
        called = self.computations[fusion.called("calls")]
        in_place = _updated_in_place(called, overwritten(fusion))
        shares = dict.fromkeys(fusion.operands, 0.0)
        for number, name in enumerate(fusion.operands):
            shares[name] += self._share(called, called.parameters[number], 1.0, in_place)
        return {name: min(1.0, share) for name, share in shares.items()}

    def _share(
        self, called: Computation, value: Instruction, of_root: float, in_place: set[str]
    ) -> float:
        """How much of a value in a fusion is read, where `of_root` of its results are."""
        share = of_root if value is called.root else 0.0
        for user in called.users[value.name]:
            for position, name in enumerate(user.operands):
                if name == value.name:
                    share += self._share_by(called, user, position, of_root, in_place)
        return min(1.0, share)

    def _share_by(
        self,
        called: Computation,
        user: Instruction,
        position: int,
        of_root: float,
        in_place: set[str],
    ) -> float:
        value = called[user.operands[position]]
        if user.opcode in _SAME_ELEMENTS:
            return self._share(called, user, of_root, in_place)
        if user.opcode == "fusion":
            inner = self.computations[user.called("calls")]
            of_user = self._share(called, user, of_root, in_place)
            inner_places = _updated_in_place(inner, overwritten(user))
            return self._share(inner, inner.parameters[position], of_user, inner_places)
        if user.opcode in SLICES and position == 0:
            of_user = self._share(called, user, of_root, in_place)
            return of_user * user.shapes[0].bytes / value.shapes[0].bytes
        if user.name in in_place and position == 0:
            part = _update(called, user).bytes / value.shapes[0].bytes
            return part if _rereads(called, user) else 0.0
        return 1.0

    def _written_by_fusion(self, fusion: Instruction, results: tuple[Shape, ...]) -> int:
        called = self.computations[fusion.called("calls")]
        in_place = _updated_in_place(called, overwritten(fusion))
        return sum(
            min(_hbm_bytes(shape), _written(called, leaf, in_place))
            for leaf, shape in zip(_leaves(called), results, strict=False)
        )


def _written(called: Computation, leaf: Instruction, in_place: set[str]) -> int:
    """What of a result is written: all, or the updates of one that stays in its place."""
    whole = sum(shape.bytes for shape in leaf.shapes)
    updates = 0
    while leaf.name in in_place or leaf.opcode == "bitcast":
        updates += _update(called, leaf).bytes if leaf.opcode in UPDATES else 0
        leaf = called[leaf.operands[0]]
    return updates or whole


def _updated_in_place(called: Computation, aliased: dict[int, int]) -> set[str]:
    """The updates in a fusion that write into the buffer of one of its operands."""
    in_place = set()
    for number, leaf in enumerate(_leaves(called)):
        while number in aliased and leaf.opcode in {*UPDATES, "bitcast"}:
            if leaf.opcode in UPDATES:
                in_place.add(leaf.name)
            leaf = called[leaf.operands[0]]
    return in_place


def _leaves(called: Computation) -> list[Instruction]:
    """The instructions that make the results of a computation, one for each array."""
    root = called.root
    return called.operands(root) if root.opcode == "tuple" else [root]


def _results(computation: Computation, instruction: Instruction) -> tuple[Shape, ...]:
    """The arrays of a result; of a pair of `-start` and `-done` those that are done."""
    if not instruction.opcode.endswith(("-start", "-update")):
        return instruction.shapes
    for user in computation.users[instruction.name]:
        if user.opcode.endswith(("-done", "-update")):
            return _results(computation, user)
    raise InputError(f"{instruction.opcode} {instruction.name} is never done")


def _hbm_bytes(shape: Shape) -> int:
    return shape.bytes if shape.space == HBM else 0


def _rereads(computation: Computation, update: Instruction) -> bool:
    """Whether a tile that an update writes keeps some of what it held."""
    old, new = computation.operands(update)[0].shapes[0], _update(computation, update)
    tile = new.tiles[0] if new.tiles else ()
    rank = min(len(tile), len(new.dims))
    if update.opcode == "scatter" or rank == 0:
        return rank > 0
    sides = zip(new.physical[-rank:], old.physical[-rank:], tile[-rank:], strict=True)
    return any(written < whole and written % size for written, whole, size in sides)


def _update(computation: Computation, update: Instruction) -> Shape:
    """What an update writes over a part of its first operand."""
    return computation[update.operands[UPDATES[update.opcode]]].shapes[0]


def overwritten(instruction: Instruction) -> dict[int, int]:
    """The numbers of the results that take the place of operands, with those of the operands."""
    if instruction.opcode in UPDATES:
        return {0: 0}
    count = len(instruction.operands)
    aliases: dict[int, int] = {}
    for indices in _OWN_ALIASES.findall(instruction.attributes):
        operand, *others = (int(number) for number in re.findall(r"\d+", indices))
        aliases |= {other - count: operand for other in others if other >= count}
    for result, operand in _DECLARED_ALIASES.findall(instruction.attributes):
        aliases[int(result or 0)] = int(operand)
    return aliases


def _own_estimate(instruction: Instruction) -> int:
    if instruction.opcode != "custom-call":
        return 0
    match = re.search(r'"bytes_accessed":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0
