"""What the systems of train.py share: the same batches, and steps on request.

Each runs in a process of its own, which imports neither the other's libraries nor takes their
memory; so this file needs nothing but NumPy.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Train = Callable[[list[np.ndarray]], list[float]]
"""Takes a step by each batch of tokens, (B, T), and returns the losses before them."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What both systems train, and how."""

    checkpoint: str
    """A directory in Hugging Face layout."""
    vocab_size: int
    batch_size: int
    length: int
    recipe: dict[str, Any]
    """The fields of a `Recipe`."""
    fused: bool
    """Whether PyTorch is asked for its fused AdamW."""

    def batch(self, step: int) -> np.ndarray:
        """Tokens without padding, all of which are learnt."""
        size = (self.batch_size, self.length)
        return np.random.default_rng(step).integers(self.vocab_size, size=size)


def serve(begin: Callable[[Task], Train]) -> None:
    """Takes as many steps as a line on stdin says, and answers in a line of JSON, until EOF.

    The first argument of the process is its `Task` as JSON. `before_bytes` is the process's
    memory when all is imported and nothing loaded, `peak_bytes` the most that it has had so far.
    """
    task = Task(**json.loads(sys.argv[1]))
    before, step = _memory("VmRSS"), 0
    train = begin(task)
    for line in sys.stdin:
        batches = [task.batch(step + number) for number in range(int(line))]
        step += len(batches)
        start = time.perf_counter()
        losses = train(batches)
        answer = {
            "seconds": (time.perf_counter() - start) / len(batches),
            "losses": losses,
            "before_bytes": before,
            "peak_bytes": _memory("VmHWM"),
        }
        print(json.dumps(answer), flush=True)


def _memory(name: str) -> int:
    """Bytes, as Linux counts them. `ru_maxrss` would begin with what the parent process had."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )
    return 1024 * int(line.split()[1])
