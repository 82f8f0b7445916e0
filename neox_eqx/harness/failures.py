"""Counts requests that failed while others did not; the harness gets an answer for them too."""

import dataclasses
import warnings
from collections.abc import Sequence

from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import is_first


@dataclasses.dataclass
class Failures:
    """How many requests failed since the program began, and the error of the first."""

    asked: int = 0
    failed: int = 0
    first: str = ""

    def add(self, errors: Sequence[str], asked: int, answer: str) -> None:
        """Warns of `errors` among so many requests, whose `answer` says nothing of the model.

        Raises:
            InputError: every request so far failed.
        """
        self.asked += asked
        if not errors:
            return
        self.failed += len(errors)
        self.first = self.first or errors[0]
        if self.failed == self.asked:
            self.check()
        warnings.warn(
            f"{len(errors)} of {asked} requests failed and are answered by {answer}, the first: "
            f"{errors[0]}",
            stacklevel=2,
        )

    def check(self) -> None:
        """Checks that no request failed.

        Raises:
            InputError: some did; it says how many, and the error of the first.
        """
        if self.failed:
            count = f"{self.failed} of {self.asked} requests failed"
            raise InputError(f"{count}, the first: {self.first}", is_reporter=is_first())


FAILURES = Failures()
"""The program's one record: the harness makes the model, and nothing else can reach it."""
