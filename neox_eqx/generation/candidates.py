"""The likeliest tokens at each place of a text that is being written."""

from typing import ClassVar

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, Int

from neox_eqx.generation.history import History
from neox_eqx.generation.rows import Rows
from neox_eqx.generation.sampling import Sampler
from neox_eqx.generation.strategy import Choice, Strategy


class WithCandidates(Strategy):
    """Samples as `sampler` does, and keeps the `number` likeliest tokens under the model itself.

    Its memory has a row for each of them, those of one text next to each other.
    """

    moves: ClassVar[bool] = False
    sampler: Sampler
    number: int = eqx.field(static=True)

    @property
    def num_rows(self) -> int:
        return self.sampler.num_rows

    def begin(self, prompts: int, slots: int) -> Rows:
        return Rows.empty(self.num_rows * self.number, slots)

    def choose(
        self, logits: Float[Array, "R V"], history: History, rows: Rows, memory: Rows
    ) -> Choice:
        best, tokens = lax.top_k(logits, self.number)
        logprobs = best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        memory = memory.add(tokens.reshape(-1), logprobs.reshape(-1), history.count)
        return self.sampler.choose(logits, history, rows, None)._replace(memory=memory)

    def candidates(self, memory: Rows) -> tuple[Int[Array, "R N K"], Float[Array, "R N K"]]:
        """The tokens, the likeliest first, and their log-probabilities."""
        shape = (self.num_rows, self.number, memory.slots)
        return memory.tokens.reshape(shape).mT, memory.logprobs.reshape(shape).mT

    def results(self, rows: Rows, memory: Rows) -> tuple[Rows, None]:
        return rows, None
