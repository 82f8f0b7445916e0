"""Which requests run together."""

import itertools
from collections.abc import Iterator, Sequence

from neox_eqx.generation.run import Request


def batches(requests: Sequence[Request], size: int, *, in_order: bool) -> Iterator[list[int]]:
    """Indices of requests that run together: as many samples each, and similar lengths.

    `in_order` leaves them as they come, for a reader who waits for the first.
    """

    def samples(index: int) -> int:
        return requests[index].options.num_samples

    indices = list(range(len(requests)))
    if not in_order:
        indices.sort(key=lambda index: (samples(index), len(requests[index].tokens)))
    for _, group in itertools.groupby(indices, samples):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
