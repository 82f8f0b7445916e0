"""When a row ends, and why."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from neox_eqx.errors import InputError
from neox_eqx.generation.arrays import array
from neox_eqx.generation.history import History
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.stopping.stop_strings import StopStrings
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary
from neox_eqx.generation.words import Words

REASONS = (None, "eos", "stop", "length", "error")
"""Why a row has ended, by the number in `Rows.finish`; it goes on at 0."""

ERROR = REASONS.index("error")
"""Of a row whose logits were NaN or infinite: no token was chosen from them."""


class Ending(eqx.Module):
    """When a row ends: at one of the `eos` ids, a stop sequence or string, or after `limit` tokens.

    What it stops at stays in the text. A sequence or string may begin in the prompt.
    """

    eos: Int[Array, " E"]
    limit: Int[Array, " R"]
    sequences: Words | None = None
    strings: StopStrings | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[ResolvedOptions],
        limits: Sequence[int] | np.ndarray,
        vocabulary: Vocabulary = NO_VOCABULARY,
        batch_mates: Sequence[ResolvedOptions] = (),
    ) -> "Ending":
        """When rows with these options end; row i has at most limits[i] new tokens.

        `batch_mates` are the options of rows that run the same program in this or other batches.

        Raises:
            InputError: a row stops at a text, and the vocabulary has no `token_bytes`.
        """
        both = (rows, batch_mates)
        sequences, other_sequences = ([row.stop_sequences for row in some] for some in both)
        strings, other_strings = ([row.stop_strings for row in some] for some in both)
        if any(strings) and not vocabulary.token_bytes:
            raise InputError("stop: has a text; give token_bytes, or the ids of its tokens")
        return cls(
            array(vocabulary.eos, np.int32),
            array(limits, np.int32),
            Words.of(sequences, other_sequences) if any((*sequences, *other_sequences)) else None,
            StopStrings.of(strings, vocabulary.token_bytes, other_strings)
            if any((*strings, *other_strings))
            else None,
        )

    def reason(self, history: History) -> Int[Array, " R"]:
        """The number of the reason for which each row ends with its newest token, else 0."""
        at_eos = (history.newest[:, None] == self.eos).any(-1)
        at_limit = history.lengths >= self.limit
        return jnp.where(at_eos, 1, jnp.where(self._at_stop(history), 2, jnp.where(at_limit, 3, 0)))

    def _at_stop(self, history: History) -> Bool[Array, " R"]:
        stop = jnp.zeros(self.limit.shape, bool)
        if self.sequences is not None:
            stop |= self.sequences.are_complete(history).any(-1)
        if self.strings is not None:
            stop |= self.strings.are_complete(history)
        return stop
