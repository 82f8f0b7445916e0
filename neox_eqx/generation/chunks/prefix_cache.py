"""Texts that were read already, found again by how they begin."""

import dataclasses
import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

import numpy as np

from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult, check_model
from neox_eqx.generation.chunks.read_write import prefill
from neox_eqx.generation.lengths import bucket
from neox_eqx.model.neox import GPTNeoX


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    tokens: tuple[int, ...]
    digests: tuple[bytes, ...]
    """SHA-256 of each beginning of the text; the last is of all of it."""
    result: ChunkResult
    nbytes: int

    def begins_as(self, tokens: tuple[int, ...], count: int) -> bool:
        return self.tokens[:count] == tokens[:count]


class PrefixCache:
    """Reads texts from where they differ from every text that it has read before.

    It keeps the keys and values of whole texts, up to `max_bytes`, and forgets the least recently
    used first. A text is found by the SHA-256 of its beginning up to any
    token, since keys and values depend on all that stands before them.

    Examples:
        >>> model = GPTNeoX.init(GPTNeoXConfig(64, 32, 1, 4, 128), key=jax.random.key(0))
        >>> cache = PrefixCache(model, max_bytes=2**20)
        >>> first = cache.prefill(Chunk.of([[5, 6, 7, 8, 9]]))
        >>> second = cache.prefill(Chunk.of([[5, 6, 7, 8, 1]]))
        >>> cache.hits, cache.tokens_saved
        (1, 3)
    """

    def __init__(self, model: GPTNeoX, max_bytes: int):
        self.model = model
        self.max_bytes = max_bytes
        self.lookups = 0
        self.hits = 0
        """Texts of which some beginning was known."""
        self.tokens_saved = 0
        """Tokens that were not read again."""
        self.nbytes = 0
        """Bytes of what is kept, on all devices together."""
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._known: defaultdict[bytes, list[_Entry]] = defaultdict(list)

    def __len__(self) -> int:
        """Texts that are kept."""
        return len(self._entries)

    def prefill(self, chunk: Chunk) -> ChunkResult:
        """What `prefill(model, [], chunk)` returns, where only what is new of each row is read.

        Scores of tokens that are known are those of the first time; there are no candidates.

        Raises:
            InputError: as `prefill`.
        """
        found = [self._find(tokens) for tokens in chunk.rows]
        entries = [entry for entry, _ in found if entry]
        # The last known token is read again: only so is the score of the next one known.
        known = [max(count - 1, 0) for _, count in found]
        if entries:
            parts = [(entry or entries[0]).result for entry, _ in found]
            result = self._read_after(parts, known, chunk)
        else:
            result = prefill(self.model, [], chunk)
        self.lookups += len(found)
        self.hits += len(entries)
        self.tokens_saved += sum(known)
        for entry in entries:
            self._touch(entry)
        self.add([result])
        return result

    def _read_after(
        self, parts: Sequence[ChunkResult], known: Sequence[int], chunk: Chunk
    ) -> ChunkResult:
        """Reads a chunk of which each row begins with so many known tokens of its part."""
        width = bucket(max(known))
        cuts = [part.cut(count, width) for part, count in zip(parts, known, strict=True)]
        prefix = ChunkResult.stack(cuts)
        rest = Chunk.of([row[count:] for row, count in zip(chunk.rows, known, strict=True)])
        result = ChunkResult.join([prefix, prefill(self.model, [prefix], rest)])
        for row, (count, part) in enumerate(zip(known, parts, strict=True)):
            result.scores[row, count] = part.scores[0, count]
        return result

    def add(self, results: Sequence[ChunkResult]) -> None:
        """Keeps the texts of chunks that follow each other, such as a prompt and its answer.

        Rows that failed are not kept.

        Raises:
            InputError: they do not follow each other, do not begin the text, or another model
                read them.
        """
        whole = ChunkResult.join([_without_candidates(result) for result in results])
        check_model("what is to be kept", whole.model, self.model)
        if whole.before.lengths.any():
            raise InputError("what is to be kept does not begin the text: give all its chunks")
        for row, tokens in enumerate(whole.chunk.rows):
            digests = _digests(tokens)
            if self._known.get(digests[-1]):
                self._touch(self._known[digests[-1]][-1])
            elif self._is_reusable(tokens) and whole.finish_reasons[row] != "error":
                self._keep(tokens, digests, whole, row)

    def _find(self, tokens: tuple[int, ...]) -> tuple[_Entry | None, int]:
        """A kept text and how many first tokens, 2 at least, it shares with this; or None and 0."""
        digests = _digests(tokens)
        for count in range(len(tokens), 1, -1):
            entry = next(reversed(self._known.get(digests[count - 1], [])), None)
            if entry and entry.begins_as(tokens, count) and self._is_reusable(tokens):
                return entry, count
        return None, 0

    def _is_reusable(self, tokens: tuple[int, ...]) -> bool:
        """Whether the keys of a text's beginning are the same however long the text becomes."""
        config = self.model.config
        is_dynamic = config.rope_parameters.rope_type == "dynamic"
        return not is_dynamic or len(tokens) <= config.max_position_embeddings

    def _touch(self, entry: _Entry) -> None:
        self._entries.move_to_end(entry.digests[-1])

    def _keep(
        self, tokens: tuple[int, ...], digests: tuple[bytes, ...], whole: ChunkResult, row: int
    ) -> None:
        """Keeps a copy of one row, unless it alone is larger than `max_bytes`."""
        nbytes = whole.nbytes_of(row)
        if nbytes > self.max_bytes:
            return
        for digest in digests:
            if digest in self._entries:  # a text that this one goes on from
                self._drop(self._entries[digest])
        while self.nbytes + nbytes > self.max_bytes:
            self._drop(next(iter(self._entries.values())))
        entry = _Entry(tokens, digests, whole.take([row]), nbytes)
        self._entries[digests[-1]] = entry
        for digest in digests:
            self._known[digest].append(entry)
        self.nbytes += nbytes

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry.digests[-1]]
        self.nbytes -= entry.nbytes
        for digest in entry.digests:
            self._known[digest].remove(entry)
            if not self._known[digest]:
                del self._known[digest]


def _without_candidates(result: ChunkResult) -> ChunkResult:
    candidates, probs = result.candidates[..., :0], result.candidate_probs[..., :0]
    return dataclasses.replace(result, candidates=candidates, candidate_probs=probs)


def _digests(tokens: tuple[int, ...]) -> tuple[bytes, ...]:
    """Of the first token, of the first two, ..., of all."""
    text = hashlib.sha256()
    digests = []
    for token in np.array(tokens, np.int32):
        text.update(token.tobytes())
        digests.append(text.digest())
    return tuple(digests)
