"""What a fusion reads and writes: of its operands only what its results need."""

from dataclasses import dataclass

from neox_eqx.planning.hlo import Computation, Instruction
from neox_eqx.planning.shapes import Shape
from neox_eqx.planning.slices import SLICES, UPDATES, overwritten, rereads, update_of

_SAME_ELEMENTS = {"bitcast", "convert", "copy", "reshape", "transpose", "tuple"}


@dataclass(frozen=True)
class Fusions:
    """The fusions of a program, and of its asynchronous computations."""

    computations: dict[str, Computation]

    def shares(self, fusion: Instruction) -> dict[str, float]:
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
        """The share of a value that is read, where the share `of_root` of the results is."""
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
            part = update_of(called, user).bytes / value.shapes[0].bytes
            again = part if rereads(called, user) else 0.0
            return again + self._share(called, user, 0.0, in_place)
        return 1.0

    def written(self, fusion: Instruction, results: tuple[Shape, ...]) -> int:
        """The bytes of its results that it writes to HBM."""
        called = self.computations[fusion.called("calls")]
        in_place = _updated_in_place(called, overwritten(fusion))
        return sum(
            min(shape.hbm_bytes, _written(called, leaf, in_place))
            for leaf, shape in zip(_leaves(called), results, strict=False)
        )


def _written(called: Computation, leaf: Instruction, in_place: set[str]) -> int:
    """The bytes of a result that are written: all, or where it stays in place its updates."""
    whole = sum(shape.bytes for shape in leaf.shapes)
    updates = 0
    while leaf.name in in_place or leaf.opcode == "bitcast":
        updates += update_of(called, leaf).bytes if leaf.opcode in UPDATES else 0
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
