"""What the loop asks of a way to choose tokens."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Int

from neox_eqx.generation.decoding.rows import Rows
from neox_eqx.generation.history import History


class Choice(NamedTuple):
    """The state of a batch after one more token for each row."""

    rows: Rows
    """The rows with their new tokens."""
    parents: Int[Array, "B K"] | None
    """Which of its prompt's rows each row goes on from; None where each goes on from itself."""
    memory: Any
    """What the strategy is given again at the next token: a tree of arrays of the same shapes."""


class Results(NamedTuple):
    """What a caller is given of the rows."""

    rows: Rows
    scores: Float[Array, " R"] | None = None
    """Those of a search."""


class Strategy(eqx.Module):
    """Samples rows, or searches with beams. The rows of a prompt stand next to each other."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """Rows of the batch."""

    @abc.abstractmethod
    def cache_rows(self, prompts: int) -> int:
        """How many rows of keys and values there are: one a prompt, shared by its rows, or one
        for each of its rows."""

    @abc.abstractmethod
    def begin(self, prompts: int, slots: int) -> Any:
        """The memory before the first token, with the same number of entries for each prompt."""

    @abc.abstractmethod
    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: Any
    ) -> Choice:
        """The next token of every row."""

    @abc.abstractmethod
    def results(self, rows: Rows, memory: Any) -> Results | None:
        """The rows as a caller may see them, finished or not; None where they are not settled."""
