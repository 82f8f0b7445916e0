"""Texts that end a row once its newest token completes one of them, found on the device."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Int32

from neox_eqx.generation.arrays import array
from neox_eqx.generation.history import History
from neox_eqx.generation.lengths import bucket, power_of_two
from neox_eqx.generation.vocabulary import TokenBytes


class StopStrings(eqx.Module):
    """Stop strings of each row, by transformers' rule.

    A string ends its row where its last byte lies in the newest token; the token may go on after
    it, and the string may begin in the prompt. A string is a small automaton over bytes with a
    state for each of its bytes: how much of it the text now ends with. The states of all strings
    stand one after the other. `table` has what a whole token does to each, so a step looks up the
    last few tokens and no text is ever decoded. It is as large as any one batch of the batch
    mates needs, not as all of them together, which would grow with the number of requests.
    """

    table: Int32[Array, "V S"]
    """Twice the state after token V in state S, plus 1 where the state's string was met."""
    start: Int[Array, "R W"]
    """The first states of the strings that stop the row; 0, which is no string's, is never left."""
    reach: int = eqx.field(static=True)
    """Tokens to look back at: the longest string has no more bytes."""

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[str]],
        token_bytes: TokenBytes,
        of_mates: Sequence[Sequence[str]] = (),
    ) -> "StopStrings":
        """The strings of each row, in arrays that fit any batch of as many rows and mates.

        How many strings there is room for, and of what length, is rounded up to a few sizes.
        """
        strings = tuple(sorted({text.encode() for texts in rows for text in texts}))
        first_of = _first_states(strings)
        every = [*rows, *of_mates]
        start = np.zeros((len(rows), power_of_two(max(map(len, every)))), np.int32)
        for row, texts in enumerate(rows):
            start[row, : len(texts)] = [first_of[text.encode()] for text in texts]
        longest = max(len(text.encode()) for texts in every for text in texts)
        table = _table(strings, _most_states(every, len(rows)), token_bytes)
        return cls(table, array(start), bucket(longest))

    def are_complete(self, history: History) -> Bool[Array, " R"]:
        """Whether the newest token completes one of the row's strings."""
        # Ids without a token, and NOTHING before the text, break off what has begun.
        tokens = jnp.minimum(history.last(self.reach), len(self.table) - 1)

        def read(place: Int[Array, ""], entry: Int[Array, "R W"]) -> Int[Array, "R W"]:
            token = lax.dynamic_slice_in_dim(tokens, place, 1, axis=1)
            return self.table[token, entry >> 1]

        entry = lax.fori_loop(0, self.reach, read, 2 * self.start)
        return (entry & 1 == 1).any(-1)


def _most_states(every: Sequence[Sequence[str]], rows: int) -> int:
    """An upper bound of the states that any `rows` of `every` row need, rounded up."""
    own = [frozenset(texts) for texts in every]
    largest = sorted((_length(texts) for texts in dict.fromkeys(own)), reverse=True)
    return bucket(1 + min(sum(largest[:rows]), _length(frozenset().union(*own))))


def _length(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


@lru_cache(maxsize=2)
def _table(strings: tuple[bytes, ...], states: int, token_bytes: TokenBytes) -> Int32[Array, "V S"]:
    """The entries after each token in each state, of state 0 alone and then of each string."""
    table = np.zeros((len(token_bytes) + 1, states), np.int32)
    for string, first in _first_states(strings).items():
        table[:, first : first + len(string)] = 2 * first + _transitions(string, token_bytes)
    return array(table)


def _first_states(strings: Sequence[bytes]) -> dict[bytes, int]:
    """Where the states of each string begin, after state 0."""
    return dict(zip(strings, accumulate(map(len, strings), initial=1), strict=False))


def _transitions(string: bytes, token_bytes: TokenBytes) -> np.ndarray:
    """(V + 1, S): the automaton's entry after each token in each state; the last is no token."""
    after, met = _automaton(string)
    spelled = [token or b"" for token in token_bytes] + [b""]
    lengths = np.array([len(token) for token in spelled])
    letters = np.frombuffer(b"".join(spelled), np.uint8)
    starts = np.cumsum(lengths) - lengths
    state = np.tile(np.arange(len(string)), (len(spelled), 1))
    was_met = np.zeros(state.shape, bool)
    for place in range(lengths.max()):
        longer = np.flatnonzero(lengths > place)
        letter = letters[starts[longer] + place][:, None]
        was_met[longer] |= met[state[longer], letter]
        state[longer] = after[state[longer], letter]
    unknown = [token is None for token in token_bytes] + [True]
    state[unknown] = 0
    return 2 * state + was_met


def _automaton(string: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(S, 256) twice: the state after a byte in a state, and whether the string is then met.

    Knuth, Morris and Pratt's: `border` is the state of the text without its first byte.
    """
    after = np.zeros((len(string), 256), np.int64)
    met = np.zeros((len(string), 256), bool)
    met[-1, string[-1]] = True
    border = 0
    for state, byte in enumerate(string):
        after[state] = after[border] if state else 0
        border_after = after[border, byte] if state else 0
        after[state, byte] = state + 1 if state + 1 < len(string) else border_after
        border = int(border_after)
    return after, met
