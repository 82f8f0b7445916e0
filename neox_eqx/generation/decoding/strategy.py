"""What the loop asks of a way to choose tokens."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Int

from neox_eqx.generation.decoding.rows import Rows
from neox_eqx.generation.history import History


class Choice(NamedTuple):
    """A token more for every row."""

    rows: Rows
    """The rows with their new tokens."""
    parents: Int[Array, "B K"] | None
    """The row that each goes on from, among those of its prompt; None: each from itself."""
    memory: Any
    """What the strategy wants to see again at the next token: arrays in a tree of one form."""


class Strategy(eqx.Module):
    """Samples rows, or searches with beams. The rows of a prompt stand next to each other."""

    moves: eqx.AbstractClassVar[bool]
    """Whether rows take the place of others of their prompt; then these share a cache row."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """Rows of the batch."""

    @abc.abstractmethod
    def begin(self, prompts: int, slots: int) -> Any:
        """The memory before the first token."""

    @abc.abstractmethod
    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: Any
    ) -> Choice:
        """The next token of every row."""

    @abc.abstractmethod
    def results(self, rows: Rows, memory: Any) -> tuple[Rows, Float[Array, " R"] | None]:
        """The rows as they are returned, finished or not, and their scores if it gives any."""
