"""A piece of each row's text as token ids, whatever stands before it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32, Shaped

from neox_eqx.errors import InputError
from neox_eqx.generation.lengths import bucket
from neox_eqx.shown import shown
from neox_eqx.tokenizer import Tokenizer, text_of, token_ids


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Token ids of B rows, padded on the right to a common width; a row may be empty.

    `of` makes the width a bucket, so that chunks of other lengths run the same compiled programs.

    Raises:
        InputError: the arrays have other shapes.

    Examples:
        >>> chunk = Chunk.of([[5, 6, 7], [8]])
        >>> chunk.rows
        [(5, 6, 7), (8,)]
        >>> Chunk.join([Chunk.of([[1, 2]]), chunk]).rows
        [(1, 2, 5, 6, 7), (1, 2, 8)]
    """

    tokens: Int32[np.ndarray, "B T"]
    """What stands after a row's length means nothing."""
    lengths: Int32[np.ndarray, " B"]

    def __post_init__(self) -> None:
        shapes = np.shape(self.tokens), np.shape(self.lengths)
        if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1]:
            raise InputError(
                f"tokens and lengths must have the shapes (rows, length) and (rows,), not "
                f"{shapes[0]} and {shapes[1]}; Chunk.of makes a chunk of lists of token ids"
            )

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Chunk":
        """A chunk of these token ids, a row each.

        Raises:
            InputError: there is no row, or one that is no list of token ids.
        """
        if not len(rows):
            raise InputError("a chunk needs at least one row")
        arrays = [_ids(row) for row in rows]
        lengths = np.array([len(row) for row in arrays], np.int32)
        tokens = np.zeros((len(arrays), bucket(int(lengths.max()))), np.int32)
        for row, own in enumerate(arrays):
            tokens[row, : len(own)] = own
        return cls(tokens, lengths)

    @classmethod
    def tokenize(
        cls, tokenizer: Tokenizer, texts: Sequence[str], *, continues: bool = False
    ) -> "Chunk":
        """A chunk of texts, a row each.

        Texts that begin get the special tokens that the tokenizer puts there by itself, as a
        `TextGenerator`'s prompts do; those of a chunk that `continues` others get none. A BOS
        token that the tokenizer does not put is the caller's: `Chunk.join([Chunk.of([[bos]]),
        chunk])`. No token reaches over the border between two chunks.

        Raises:
            InputError: a text is not valid Unicode, or the tokenizer breaks down over it.
        """
        if isinstance(texts, str):
            raise InputError(f"texts must be a list of texts, not the text {texts[:30]!r}")
        begins = not continues
        return cls.of([token_ids(tokenizer, text, add_special_tokens=begins) for text in texts])

    @classmethod
    def join(cls, chunks: Sequence["Chunk"]) -> "Chunk":
        """The rows of all chunks, one after the other, without a gap.

        A chunk of fewer rows than the last is repeated as by `repeat`.

        Raises:
            InputError: the last chunk's number of rows is no multiple of another's.
        """
        rows = len(chunks[-1])
        repeated = [chunk.repeat(rows) for chunk in chunks]
        tokens = np.concatenate([chunk.tokens for chunk in repeated], axis=1)
        is_real = np.concatenate([chunk.is_real for chunk in repeated], axis=1)
        return cls(*align_left(tokens, is_real))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_real(self) -> Bool[np.ndarray, "B T"]:
        """False at padding."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """The token ids of each row."""
        pairs = zip(self.tokens, self.lengths, strict=True)
        return [tuple(row[:length].tolist()) for row, length in pairs]

    def texts(self, tokenizer: Tokenizer) -> list[str]:
        """The text of each row without special tokens; a character that is cut shows as U+FFFD."""
        return [text_of(tokenizer, row) for row in self.rows]

    def repeat(self, rows: int) -> "Chunk":
        """`rows` rows: each of these equally often, its copies next to each other.

        Raises:
            InputError: `rows` is 0, or no multiple of the rows there are.
        """
        if rows < 1 or rows % len(self):
            raise InputError(f"{len(self)} rows cannot stand before {rows}: {rows} is no multiple")
        times = rows // len(self)
        return Chunk(np.repeat(self.tokens, times, axis=0), np.repeat(self.lengths, times))

    def take(self, rows: Sequence[int]) -> "Chunk":
        """These rows alone, in this order."""
        return Chunk(self.tokens[list(rows)], self.lengths[list(rows)])

    def equals(self, other: "Chunk") -> bool:
        """Whether the rows are the same; the padding may differ."""
        return self.rows == other.rows


def _ids(row: Any) -> Int32[np.ndarray, " T"]:
    try:
        given = np.asarray(row)
        with np.errstate(invalid="ignore"):
            ids = given.astype(np.int32)
    except (TypeError, ValueError, OverflowError):
        given = ids = np.zeros((), np.int32)
    if given.ndim != 1 or given.dtype == bool or not np.array_equal(ids, given):
        raise InputError(
            f"a row of a chunk must be a list of token ids, not {shown(row)}; "
            "a single row is given as [[5, 6, 7]]"
        )
    return ids


def align_left(
    values: Shaped[np.ndarray, "B N"], is_real: Bool[np.ndarray, "B N"]
) -> tuple[Shaped[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """The real values of each row without gaps, padded with 0 to a bucket, and their number."""
    lengths = is_real.sum(-1, dtype=np.int32)
    aligned: Any = np.zeros((len(values), bucket(int(lengths.max()))), values.dtype)
    aligned[np.arange(aligned.shape[1]) < lengths[:, None]] = values[is_real]
    return aligned, lengths


NO_TEXT = Chunk.of([()])
"""A row without tokens, which stands before any number of rows."""
