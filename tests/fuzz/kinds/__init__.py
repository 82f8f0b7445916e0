"""Each kind of case, by its name: what draws a case of it."""

from collections.abc import Callable

from tests.fuzz.case import Case
from tests.fuzz.faults import Draw
from tests.fuzz.kinds import hf_files

KINDS: dict[str, Callable[[Draw], Case]] = {**hf_files.KINDS}
