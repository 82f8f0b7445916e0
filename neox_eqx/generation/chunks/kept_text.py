"""A text whose keys and values are kept, so that another that begins as it is read from there."""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import jax.numpy as jnp
import numpy as np

from neox_eqx.generation.chunks.chunk_result import gather_slots
from neox_eqx.generation.chunks.steps import begin, end, read
from neox_eqx.generation.decoding.loop import decode_all
from neox_eqx.generation.decoding.run import Request, Row, pad_prompts, room, rows_of, strategy_of
from neox_eqx.generation.lengths import power_of_two
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment

# Least numbers of slots, which double as a text grows: few sizes, and few programs compile.
_FEWEST_READ, _FEWEST_KEPT = 64, 256


class KeptText:
    """The newest text that a model has read and written, prompt by prompt, as in a conversation.

    Where `PrefixCache` finds any of many texts again, this is one that grows: what it shares with
    the next prompt is never read again. The `past` stands before it.
    """

    def __init__(self, model: GPTNeoX, past: tuple[Segment, ...] = ()):
        self.model = model
        self.past = past
        self.tokens: tuple[int, ...] = ()
        self.tokens_read = 0
        """Prompt tokens that were read; the others of all prompts were kept already."""
        # On a mesh the rows must divide over its data axis.
        self._rows = model.mesh.shape["data"] if model.mesh else 1
        self._kept = model.empty_segment(self._rows, _FEWEST_KEPT)

    def answer(self, request: Request, vocabulary: Vocabulary) -> Iterator[Row]:
        """Yields the answer to a prompt as it grows, a token at a time, as `run` does.

        Prompt and answer are kept once the caller has gone through all rows, unless the row failed.

        Raises:
            InputError: as `run`.
        """
        model, limit = self.model, self._limit(request)
        known = self._known(request.tokens)
        # The rest becomes zero: the last token may hold a NaN that no logits have shown yet.
        kept = self._kept.only(self._kept.valid & (np.arange(self._kept.slots) < known))
        rest = self._padded(request.tokens[known:], _FEWEST_READ)
        nothing = jnp.full((1, model.config.vocab_size), jnp.nan)
        unscored = jnp.zeros_like(rest[1])
        past = (*self.past, kept)
        _, logits, _, new = read(model, *rest, unscored, past, nothing, candidates=0)
        self.tokens_read += len(request.tokens) - known
        strategy = strategy_of([request.options] * self._rows, [limit] * self._rows, vocabulary)
        past = (*past, new)
        first = begin(model, *self._padded(request.tokens, _FEWEST_KEPT), logits, strategy, past)
        for state in decode_all(model, past, first, strategy, stride=1):
            rows = rows_of(state, strategy, model)
            assert rows is not None
            row = rows[0]
            yield row
        if row.error is not None:
            return
        _, spoken = end(model, past, state, slots=state.rows.slots)
        counts = (known, len(request.tokens) - known, len(row.tokens))
        self._kept = self._joined((kept, new, spoken), counts)
        self.tokens = request.tokens + row.tokens

    def _limit(self, request: Request) -> int:
        request.options.check_ids(self.model.config.vocab_size)
        return request.options.new_tokens(len(request.tokens), room(self.model, self.past))

    def _known(self, tokens: tuple[int, ...]) -> int:
        """How many tokens need not be read; the last always is, for the logits after it."""
        config = self.model.config
        is_dynamic = config.rope_parameters.rope_type == "dynamic"
        if is_dynamic and max(len(tokens), len(self.tokens)) > config.max_position_embeddings:
            return 0  # the keys of the beginning depend on how long the text is
        pairs = zip(self.tokens, tokens[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _padded(self, tokens: Sequence[int], least: int) -> tuple[Any, Any]:
        slots = power_of_two(len(tokens), least)
        return pad_prompts([tokens] * self._rows, self.model.config.vocab_size, slots)

    def _joined(self, parts: Sequence[Segment], counts: Sequence[int]) -> Segment:
        """One segment of the first counts[i] slots of each part i, without padding between them."""
        pieces, start = [], 0
        rows = np.arange(self._rows)[:, None]
        for part, count in zip(parts, counts, strict=True):
            pieces.append(start + rows * part.slots + np.arange(count))
            start += self._rows * part.slots
        source = np.concatenate(pieces, axis=1)
        length = source.shape[1]
        slots = power_of_two(length, _FEWEST_KEPT)
        source = np.pad(source, ((0, 0), (0, slots - length)))
        is_real = np.broadcast_to(np.arange(source.shape[1]) < length, source.shape)
        return gather_slots(self.model, tuple(parts), source, is_real)
