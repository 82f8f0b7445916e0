"""Instructions that read or overwrite only a part of an array."""

import re

from neox_eqx.planning.hlo import Computation, Instruction
from neox_eqx.planning.shapes import Shape

SLICES = {"slice", "dynamic-slice", "gather"}
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""The number of the operand that is written over a part of the first operand."""

DECLARED_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}\)")
_OWN_ALIASES = re.compile(r'\{"indices":\[([^\]]*)\]\}')


def update_of(computation: Computation, update: Instruction) -> Shape:
    """What an update writes over a part of its first operand."""
    written = UPDATES[update.opcode.removesuffix("-start")]
    return computation[update.operands[written]].shapes[0]


def rereads(computation: Computation, update: Instruction) -> bool:
    """Whether a tile that an update writes keeps some of what it held."""
    old, new = computation.operands(update)[0].shapes[0], update_of(computation, update)
    tile = new.tiles[0] if new.tiles else ()
    rank = min(len(tile), len(new.dims))
    if update.opcode == "scatter" or rank == 0:
        return rank > 0
    sides = zip(new.physical[-rank:], old.physical[-rank:], tile[-rank:], strict=True)
    return any(written < whole and written % size for written, whole, size in sides)


def overwritten(instruction: Instruction) -> dict[int, int]:
    """The numbers of results that share an operand's buffer, each with the operand's number."""
    if instruction.opcode in UPDATES:
        return {0: 0}
    count = len(instruction.operands)
    aliases: dict[int, int] = {}
    for indices in _OWN_ALIASES.findall(instruction.attributes):
        operand, *others = (int(number) for number in re.findall(r"\d+", indices))
        aliases |= {other - count: operand for other in others if other >= count}
    for result, operand in DECLARED_ALIAS.findall(instruction.attributes):
        aliases[int(result or 0)] = int(operand)
    return aliases
