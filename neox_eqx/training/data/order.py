"""Where documents stand: which share a row, and which rows make a batch."""

import bisect
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def packed(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """The indices of the documents in each row, packed so that few rows are needed.

    Best-fit decreasing: the longest document first, each into the row where it leaves least room.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        tightest = bisect.bisect_left(rooms, length)
        if tightest < len(rooms):
            room = rooms[tightest]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[tightest]
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(index)
        if room - length not in by_room:
            by_room[room - length] = []
            bisect.insort(rooms, room - length)
        by_room[room - length].append(row)
    return rows


def rows_of_batch(step: int, batch_size: int, rows: int, seed: int) -> list[int]:
    """The indices of the rows in the batch of a step, which depend on the arguments alone.

    Each epoch goes through all rows in an order of its own, and a batch that an epoch does not
    fill goes on with the next.
    """
    numbers = range(step * batch_size, (step + 1) * batch_size)
    return [int(_shuffled(rows, seed, number // rows)[number % rows]) for number in numbers]


@lru_cache(maxsize=2)
def _shuffled(rows: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy keeps the raw numbers of its bit generators the same for ever, and not what its
    # permutation makes of them.
    keys = np.random.Philox(key=[seed, epoch]).random_raw(rows)
    return np.argsort(keys, kind="stable")
