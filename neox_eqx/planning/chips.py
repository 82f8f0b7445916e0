"""The TPUs that can be planned for, and the slices that they come in."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.hardware import TPUS, Rates
from neox_eqx.planning.slice_names import topology_of

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which a program sees as one device."""

    rates: Rates
    hbm_bytes: int
    """The memory that the compiler lets a program use, less than what is built in; from the
    message of libtpu 0.0.51 for a program that is too large."""
    largest: tuple[int, ...]
    """The whole pod: a torus with so many chips in each dimension."""
    compiler_options: tuple[tuple[str, Any], ...] = ()

    @property
    def dimensions(self) -> int:
        return len(self.largest)


CHIPS = {
    # A v4 chip has two cores, which a program sees as one device: "megacore".
    "v4": Chip(TPUS["v4"], int(30.75 * GIB), (16, 16, 16), (("chip_config_name", "megacore"),)),
    "v5e": Chip(TPUS["v5e"], int(15.75 * GIB), (16, 16)),
    "v5p": Chip(TPUS["v5p"], int(95.73 * GIB), (16, 20, 28)),
    "v6e": Chip(TPUS["v6e"], int(31.24 * GIB), (16, 16)),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a pod, such as v5e:4x4 or v4:2x2x4: chips in a grid."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    rented_as: str | None = None
    """The name that was given for it, such as v4-32."""

    @classmethod
    def parse(cls, text: str) -> "Topology":
        """The slice with this grid, v4:2x2x4, or with this name to rent it by, v4-32.

        Raises:
            InputError: no such chip or slice, or not a grid of its dimensions.
        """
        if topology := topology_of(text):
            return dataclasses.replace(cls.parse(topology), rented_as=text)
        match = re.fullmatch(r"(\w+):([1-9]\d{0,3}(?:x[1-9]\d{0,3})*)", text)
        if not match or match[1] not in CHIPS:
            raise InputError(
                f"the topology {text!r} is not of the form v5e:4x4 or v5e-16; "
                f"the chips are {', '.join(CHIPS)}"
            )
        chip = CHIPS[match[1]]
        shape = tuple(map(int, match[2].split("x")))
        if len(shape) != chip.dimensions:
            example = "x".join(["2"] * chip.dimensions)
            raise InputError(
                f"the topology {text!r} has {len(shape)} dimensions; those of {match[1]} have "
                f"{chip.dimensions}, as {match[1]}:{example}"
            )
        if any(size > most for size, most in zip(sorted(shape), sorted(chip.largest), strict=True)):
            whole = "x".join(map(str, chip.largest))
            raise InputError(f"the topology {text!r} is larger than a pod of {match[1]}, {whole}")
        return cls(text, chip, shape)

    @property
    def count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def devices(self) -> Sequence[Any]:
        """The devices of the slice, for the compiler; only in a process that may load libtpu.

        Raises:
            InputError: the compiler knows no such slice.
        """
        from jax.experimental import topologies

        try:
            description = topologies.get_topology_desc(
                self.name, "tpu", **dict(self.chip.compiler_options)
            )
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the compiler does not know {self.name}: {reason}") from error
        return description.devices
