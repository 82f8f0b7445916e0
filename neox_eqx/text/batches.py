"""Which requests run together."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Sequence

from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options.resolved_options import ResolvedOptions

ROWS_OF_BITWISE = 8


@dataclasses.dataclass(frozen=True)
class Batch:
    """Requests that run together, by their indices, as one of batches that run one program."""

    indices: list[int]
    batch_mates: list[ResolvedOptions]
    """The options of all of these batches, each once."""
    pad_to: int
    """The requests are padded to a multiple of it."""

    def of(self, requests: Sequence[Request]) -> list[Request]:
        """Those that run together."""
        return [requests[index] for index in self.indices]


def batches(
    requests: Sequence[Request], size: int, *, in_order: bool, bitwise: bool
) -> Iterator[Batch]:
    """Batches of as many beams and samples in each request, and of similar lengths.

    `in_order` leaves them as they come, for a reader who waits for the first. `bitwise` is that
    of TextGenerator: which processors run is part of a program, so the options are the same too.
    """

    def kind(index: int) -> Hashable:
        options = requests[index].options
        if bitwise:
            return bucket(len(requests[index].tokens)), _lasting(options)
        return options.num_beams, options.num_samples

    kinds = [kind(index) for index in range(len(requests))]
    places = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
    indices = list(range(len(requests)))
    if not in_order:
        indices.sort(key=lambda index: (places[kinds[index]], len(requests[index].tokens)))
    size = ROWS_OF_BITWISE if bitwise else size
    for _, group in itertools.groupby(indices, kinds.__getitem__):
        members = list(group)
        batch_mates = list({_lasting(requests[index].options): None for index in members})
        for start in range(0, len(members), size):
            pad_to = size if bitwise or len(members) > size else 1
            yield Batch(members[start : start + size], batch_mates, pad_to)


def _lasting(options: ResolvedOptions) -> ResolvedOptions:
    """The options without what each request often has of its own, and no program looks at."""
    return dataclasses.replace(options, seed=0, max_new_tokens=None, max_length=None)
