"""SIGTERM and Ctrl-C, which a run answers between two steps."""

import os
import signal
from functools import partial
from types import FrameType, TracebackType

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from neox_eqx.sharding.distributed import is_first


class Interruption:
    """As a context, notes a signal instead of ending the program at once.

    A second Ctrl-C does end it at once. One process of several may be sent a signal alone, and all
    have to stop at the same step, so at each step every process asks all.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._asked: Int[Array, ""] | None = None

    def __enter__(self) -> "Interruption":
        self._before = {
            int(number): signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, *, wait: bool = False) -> int:
        """The signal to stop for after the step that was begun last, or 0: the same everywhere.

        Of several processes it is what they knew a step ago, which is there without waiting, or
        with `wait` what they know now.
        """
        if jax.process_count() == 1:
            return self._noted
        before, self._asked = self._asked, self._highest()
        known = self._asked if wait else before
        return 0 if known is None else int(known)

    def _highest(self) -> Int[Array, ""]:
        """The highest signal that any process noted, once the devices have compared them."""
        everyone = Mesh(np.array(jax.devices()), "processes")
        apart = NamedSharding(everyone, PartitionSpec("processes"))
        mine = np.full(1, self._noted, np.int32)
        each = jax.make_array_from_callback((jax.device_count(),), apart, lambda _: mine)
        return _max(each, NamedSharding(everyone, PartitionSpec()))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted == number == signal.SIGINT:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self._noted = number
        if is_first():
            # Not by print, which the signal may have interrupted.
            os.write(2, f"{signal.Signals(number).name}: saving after this step\n".encode())


@partial(jax.jit, static_argnums=1)
def _max(numbers: Int[Array, " processes"], everywhere: NamedSharding) -> Int[Array, ""]:
    return lax.with_sharding_constraint(numbers.max(), everywhere)
