"""Options of the programs that the tests of processes run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    fault: str = ""
    """What goes wrong in process 1."""
