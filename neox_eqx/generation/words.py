"""Sequences of tokens that a row has of its own, and whether its text ends with one."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Int

from neox_eqx.generation.arrays import array
from neox_eqx.generation.history import NOTHING, History
from neox_eqx.generation.lengths import bucket

_ANY = -1


class Words(eqx.Module):
    """W words for each row, each of up to L tokens.

    They are aligned to the right with _ANY before them, which every token matches. Where a row
    has fewer words than another, words that end in NOTHING take their place.
    """

    ids: Int[Array, "R W L"]

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[tuple[int, ...]]],
        of_mates: Sequence[Sequence[tuple[int, ...]]] = (),
    ) -> "Words":
        """The words of each row, in an array wide enough for the words `of_mates` too.

        How many words a row has room for, and of what length, is rounded up to a few sizes.
        """
        every = [*rows, *of_mates]
        longest = max(len(word) for words in every for word in words)
        # Words of one token need no past, and there may be one for each of the vocabulary.
        length = 1 if longest == 1 else bucket(longest)
        ids = np.full((len(rows), bucket(max(map(len, every))), length), _ANY, np.int32)
        ids[..., -1] = NOTHING
        for row, words in enumerate(rows):
            for place, word in enumerate(words):
                ids[row, place, length - len(word) :] = word
        return cls(array(ids))

    @property
    def last(self) -> Int[Array, "R W"]:
        """The last token of each word."""
        return self.ids[..., -1]

    def are_begun(self, history: History) -> Bool[Array, "R W"]:
        """Whether the text ends with all of the word but its last token."""
        return _are_last(self.ids[..., :-1], history)

    def are_complete(self, history: History) -> Bool[Array, "R W"]:
        """Whether the text, of one token at least, ends with the word."""
        return _are_last(self.ids, history)


def _are_last(ids: Int[Array, "R W K"], history: History) -> Bool[Array, "R W"]:
    newest = history.last(ids.shape[-1])
    return ((ids == newest[:, None]) | (ids == _ANY)).all(-1)
