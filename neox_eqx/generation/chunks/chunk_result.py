"""What a model makes of a chunk: scores of its tokens, and what those that follow attend to."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.chunk import NO_TEXT, Chunk, align_left
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkResult:
    """A chunk that `model` has read or written, ready to stand before others.

    Scores and candidates at a token's place are the model's prediction for that place from all text
    before it, earlier chunks included. Where there is none, as for the first token of a text,
    scores and probabilities are NaN and candidates -1. At padding all of them are 0.
    """

    model: GPTNeoX
    before: Chunk
    """The whole text before the chunk."""
    chunk: Chunk
    scores: Float[np.ndarray, "B T"]
    """Natural log-probability of each token under the model itself, before any processing; -inf in
    place of NaN in a row that failed."""
    candidates: Int[np.ndarray, "B T K"]
    """The likeliest tokens, the likeliest first."""
    candidate_probs: Float[np.ndarray, "B T K"]
    """The probability of each candidate under the model itself."""
    next_logits: Float[Array, "B V"]
    """Logits after each row's last token, in float32; NaN after `cut`."""
    segment: Segment
    """Keys and values of the chunk's tokens."""
    finish_reasons: tuple[str | None, ...]
    """Why each row ends here: "eos", "stop" or "length"; None where it was not generated. "error"
    where logits were NaN or infinite, as are those of all that follows in the row."""

    @property
    def text(self) -> Chunk:
        """The text of each row up to the chunk's end."""
        return Chunk.join([self.before, self.chunk])

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and logits, on all devices together."""
        return sum(array.nbytes for array in jax.tree.leaves((self.segment, self.next_logits)))

    def nbytes_of(self, row: int) -> int:
        """The `nbytes` that `take([row])` would have, without making it."""
        of_slot = sum(x.nbytes for x in jax.tree.leaves(self.segment)) // self.chunk.tokens.size
        slots = bucket(int(self.chunk.lengths[row]))
        return of_slot * slots + self.next_logits.nbytes // len(self)

    def __len__(self) -> int:
        return len(self.chunk)

    @classmethod
    def join(cls, results: Sequence["ChunkResult"]) -> "ChunkResult":
        """One result for chunks that follow each other, as if they had been one.

        Keys and values that rows share are copied for each of them; padding between chunks goes.

        Raises:
            InputError: the chunks do not follow each other, or have not as many candidates.
        """
        first, last = results[0], results[-1]
        rows = len(last)
        text_of(last.model, results, rows, after=first.before)
        if first is last:
            return first
        repeated = [np.repeat(places, rows // len(places), axis=0) for places in _places(results)]
        source, lengths = align_left(
            np.concatenate(repeated, axis=1),
            np.concatenate([result.chunk.repeat(rows).is_real for result in results], axis=1),
        )
        return dataclasses.replace(
            last,
            before=first.before.repeat(rows),
            **_taken(results, source, lengths),
        )

    @classmethod
    def stack(cls, results: Sequence["ChunkResult"]) -> "ChunkResult":
        """One result with the rows of all, which stand in one batch from now on.

        Raises:
            InputError: they are of several models, or have not as many candidates.
        """
        for number, result in enumerate(results, 1):
            check_model(f"result {number} of {len(results)}", result.model, results[0].model)
        source, lengths = align_left(
            _same_width(_places(results)),
            _same_width([result.chunk.is_real for result in results]),
        )
        return cls(
            model=results[0].model,
            before=Chunk.of([row for result in results for row in result.before.rows]),
            next_logits=jnp.concatenate([result.next_logits for result in results]),
            finish_reasons=tuple(r for result in results for r in result.finish_reasons),
            **_taken(results, source, lengths),
        )

    def take(self, rows: Sequence[int]) -> "ChunkResult":
        """These rows alone, in this order; one may come several times."""
        chosen = np.array(rows)
        source, lengths = align_left(_places([self])[0][chosen], self.chunk.is_real[chosen])
        return dataclasses.replace(
            self,
            before=self.before.take(rows),
            next_logits=self.next_logits[chosen],
            finish_reasons=tuple(self.finish_reasons[row] for row in rows),
            **_taken([self], source, lengths),
        )

    def cut(self, length: int, width: int | None = None) -> "ChunkResult":
        """At most `length` tokens of each row, in `width` slots or a bucket.

        The logits after a cut were not kept: `next_logits` are NaN.
        """
        lengths = np.minimum(self.chunk.lengths, length)
        width = bucket(length) if width is None else width
        source = _same_width([_places([self])[0][:, :width]], width)
        return dataclasses.replace(
            self,
            next_logits=jnp.full_like(self.next_logits, jnp.nan),
            finish_reasons=(None,) * len(self),
            **_taken([self], source, lengths),
        )


def _same_width(arrays: Sequence[np.ndarray], width: int = 0) -> np.ndarray:
    """The rows of all arrays, as wide as the widest."""
    width = max(width, *(array.shape[1] for array in arrays))
    return np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in arrays])


def text_of(
    model: GPTNeoX, prefix_chunks: Sequence[ChunkResult], rows: int, after: Chunk = NO_TEXT
) -> Chunk:
    """The text of chunks that follow each other, that of `after` first, repeated to `rows` rows.

    Raises:
        InputError: a chunk was read by another model, after another text, or in a number of rows
            that does not divide that of the next.
    """
    text = after
    for number, result in enumerate(prefix_chunks, 1):
        where = f"chunk {number} of {len(prefix_chunks)}"
        check_model(where, result.model, model)
        if not text.repeat(len(result)).equals(result.before):
            raise InputError(f"{where} was not read after the text of the chunks before it")
        text = result.text
    return text.repeat(rows)


def check_model(where: str, theirs: GPTNeoX, ours: GPTNeoX) -> None:
    """Raises unless both are the same model; one that was loaded anew is another.

    Raises:
        InputError: they are not; the message begins with `where` and says what differs.
    """
    if theirs is ours:
        return
    for name in (
        "dtype",
        "mesh",
        "layout",
        "num_heads",
        "heads_together",
        "cache",
        "stacked",
        "config",
    ):
        other, own = getattr(theirs, name), getattr(ours, name)
        if other != own:
            values = "" if name == "config" else f" {other}, and this model's {own}"
            raise InputError(f"{where} is of another model: its {name} is{values or ' another'}")
    pairs = zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True)
    if any(one is not other for one, other in pairs):
        raise InputError(f"{where} is of another model: its parameters are not this model's arrays")


def _places(parts: Sequence[ChunkResult]) -> list[Int[np.ndarray, "_ _"]]:
    """For each part the numbers of its slots (rows, slots), counted through all parts."""
    starts = np.cumsum([0, *(part.chunk.tokens.size for part in parts)])
    shapes = [part.chunk.tokens.shape for part in parts]
    return [
        start + np.arange(rows * width).reshape(rows, width)
        for start, (rows, width) in zip(starts, shapes, strict=False)
    ]


def _taken(
    parts: Sequence[ChunkResult], source: Int[np.ndarray, "R S"], lengths: Int[np.ndarray, " R"]
) -> dict[str, Any]:
    """The fields of a result with the slots `source`, numbered as in `_places`."""

    def pick(arrays: Sequence[np.ndarray]) -> np.ndarray:
        flat = np.concatenate(
            [array.reshape(array.shape[0] * array.shape[1], *array.shape[2:]) for array in arrays]
        )
        picked = flat[source]
        picked[~is_real] = 0
        return picked

    if len({part.candidates.shape[-1] for part in parts}) > 1:
        counts = ", ".join(str(part.candidates.shape[-1]) for part in parts)
        raise InputError(f"these do not join: they have {counts} candidates")
    is_real = np.arange(source.shape[1]) < lengths[:, None]
    return {
        "chunk": Chunk(pick([part.chunk.tokens for part in parts]), lengths),
        "scores": pick([part.scores for part in parts]),
        "candidates": pick([part.candidates for part in parts]),
        "candidate_probs": pick([part.candidate_probs for part in parts]),
        "segment": gather_slots(parts[0].model, tuple(p.segment for p in parts), source, is_real),
    }


@jax.jit
def gather_slots(
    model: GPTNeoX,
    segments: tuple[Segment, ...],
    source: Int[Array, "R S"],
    is_real: Bool[Array, "R S"],
) -> Segment:
    """Keys and values of the slots `source`, counted through all segments row by row."""

    def flat(x: Shaped[Array, "*L B G S X"]) -> Shaped[Array, "*L G P X"]:
        moved = jnp.moveaxis(x, -4, -3)
        return moved.reshape(*moved.shape[:-3], -1, moved.shape[-1])

    def gathered(*parts: Array) -> Shaped[Array, "*L R G T X"]:
        all_places = jnp.concatenate([flat(x) for x in parts], axis=-2)
        return jnp.moveaxis(jnp.take(all_places, source, axis=-2), -3, -4)

    kv = jax.tree.map(gathered, *(segment.kv for segment in segments))
    return Segment(kv, is_real).only(is_real).constrain(model.mesh)
