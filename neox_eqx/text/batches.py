"""Which requests run together."""

import itertools
from collections.abc import Iterator, Sequence

from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.run import Request

ROWS_OF_BITWISE = 8


def batches(
    requests: Sequence[Request], size: int, *, in_order: bool, bitwise: bool
) -> Iterator[list[int]]:
    """Indices of requests that run together: as many beams and samples each, similar lengths.

    `in_order` leaves them as they come, for a reader who waits for the first. `bitwise` is that
    of TextGenerator.
    """

    def kind(index: int) -> tuple[int, ...]:
        options, length = requests[index].options, len(requests[index].tokens)
        slots = bucket(length) if bitwise else 0
        return options.num_beams, options.num_samples, slots

    indices = list(range(len(requests)))
    if not in_order:
        indices.sort(key=lambda index: (kind(index), len(requests[index].tokens)))
    size = ROWS_OF_BITWISE if bitwise else size
    for _, group in itertools.groupby(indices, kind):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
