"""Which requests run together."""

import itertools
from collections.abc import Iterator, Sequence

from neox_eqx.generation.run import Request


def batches(requests: Sequence[Request], size: int, *, in_order: bool) -> Iterator[list[int]]:
    """Indices of requests that run together: as many beams and samples each, of similar lengths.

    `in_order` leaves them as they come, for a reader who waits for the first.
    """

    def kind(index: int) -> tuple[int, int]:
        return requests[index].options.num_beams, requests[index].options.num_samples

    indices = list(range(len(requests)))
    if not in_order:
        indices.sort(key=lambda index: (kind(index), len(requests[index].tokens)))
    for _, group in itertools.groupby(indices, kind):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
