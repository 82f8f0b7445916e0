"""The batches of a run, each a function of its step alone."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from neox_eqx.errors import InputError
from neox_eqx.sharding.rules import sharding
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.data.documents import Document
from neox_eqx.training.data.lengths import Counts, TooLong, shorten
from neox_eqx.training.data.order import packed, rows_of_batch

_MULTIPLE = 64
"""Unless documents are packed, rows are as long as the longest one, rounded up to a multiple of
this: `Recipe.loss_chunk`, so that the loss goes through whole chunks."""


class Rows(NamedTuple):
    """A `Batch` before it is placed on devices, in NumPy."""

    tokens: np.ndarray
    documents: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Documents in rows of one length, and the rows in shuffled batches of one size.

    Every process computes whole batches, so that their order does not depend on how many there
    are, and `to_devices` takes its share.
    """

    documents: Sequence[Document]
    rows: Sequence[Sequence[int]]
    """The indices of the documents in each row."""
    row_length: int
    batch_size: int
    seed: int
    counts: Counts

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        *,
        batch_size: int,
        max_length: int,
        pack: bool = False,
        seed: int = 0,
        too_long: TooLong | None = None,
    ) -> "TrainingData":
        """The documents as `shorten` leaves them, one a row or packed to `max_length`.

        Raises:
            InputError: none is left.
        """
        kept, counts = shorten(documents, max_length, too_long)
        if not kept:
            raise InputError(
                f"all {counts.examples} examples are too long for max_length {max_length}, or have "
                f"nothing to learn; 95 % of them have at most {counts.most_have} tokens"
            )
        lengths = [len(document.tokens) for document in kept]
        if pack:
            return cls(kept, packed(lengths, max_length), max_length, batch_size, seed, counts)
        rows = [[index] for index in range(len(kept))]
        length = min(math.ceil(max(lengths) / _MULTIPLE) * _MULTIPLE, max_length)
        return cls(kept, rows, length, batch_size, seed, counts)

    def steps(self, epochs: float) -> int:
        """How many steps go through all rows so often, rounded up."""
        return math.ceil(epochs * len(self.rows) / self.batch_size)

    def batch(self, step: int) -> Rows:
        """The rows of all processes in the batch of a step; the first step is 0."""
        return self._batch_of(self._rows_at(step))

    def ids(self, step: int) -> list[int]:
        """The numbers of the examples in the batch of a step."""
        rows = self._rows_at(step)
        return [self.documents[index].number for row in rows for index in self.rows[row]]

    def once(self) -> Iterator[Rows]:
        """All rows in their order, each once; the last batch is filled up with padding."""
        for start in range(0, len(self.rows), self.batch_size):
            yield self._batch_of(range(start, min(start + self.batch_size, len(self.rows))))

    @property
    def fingerprint(self) -> str:
        """A hash of all that the batches depend on: the tokens and the settings."""
        digest = hashlib.sha256()
        digest.update(repr((self.rows, self.row_length, self.batch_size, self.seed)).encode())
        for document in self.documents:
            given = int(document.is_learnt.argmax())  # before the first that is learnt
            digest.update(f"{document.number} {given} {len(document.tokens)}".encode())
            digest.update(document.tokens.tobytes())
            # Else the number says it, as in runs that began before conversations could be learnt.
            if not document.is_learnt[given:].all():
                digest.update(document.is_learnt.tobytes())
        return digest.hexdigest()

    def _rows_at(self, step: int) -> list[int]:
        return rows_of_batch(step, self.batch_size, len(self.rows), self.seed)

    def _batch_of(self, rows: Sequence[int]) -> Rows:
        shape = (self.batch_size, self.row_length)
        tokens, documents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for line, row in enumerate(rows):
            start = 0
            for number, index in enumerate(self.rows[row], 1):
                document = self.documents[index]
                end = start + len(document.tokens)
                tokens[line, start:end] = document.tokens
                documents[line, start:end] = number
                weights[line, start:end] = document.is_learnt
                start = end
        return Rows(tokens, documents, weights)


def to_devices(rows: Rows, mesh: Mesh | None) -> Batch:
    """The batch on the devices: each process gives its own devices their rows."""
    if mesh is None:
        return Batch(*map(jnp.asarray, rows))
    rows_apart = sharding(mesh, rows.tokens.shape, ("rows", None))

    def spread(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, rows_apart, lambda part: array[part])

    return Batch(*map(spread, rows))
