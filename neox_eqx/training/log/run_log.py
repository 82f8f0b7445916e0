"""Where the numbers of a run go: to its directory, and to Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from neox_eqx.errors import InputError, Stopped
from neox_eqx.sharding.distributed import broadcast, is_first
from neox_eqx.training.log.metrics_file import MetricsFile, read_metrics
from neox_eqx.training.log.wandb_run import WandbRun

WandbMode = Literal["online", "offline", "disabled"]


class RunLog:
    """The log of a run that goes on after `resume_step`; only process 0 writes anything.

    Opened within `agreed`, before anything is compiled and after `check_login`.
    As a context, it finishes the log with the exit status that the program will have.

    Raises:
        InputError: a file cannot be written, or W&B cannot be reached.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wandb_mode: WandbMode,
        config: Mapping[str, Any],
        resume_step: int = 0,
    ):
        self._directory = directory
        self._sinks: list[MetricsFile | WandbRun] = []
        if not is_first():
            return
        wandb_run = None
        if wandb_mode != "disabled":
            name = directory.resolve().name
            wandb_run = WandbRun(directory, mode=wandb_mode, name=name, config=config)
        self._sinks.append(MetricsFile(directory, resume_step))
        if wandb_run:
            wandb_run.catch_up(read_metrics(directory))
            self._sinks.append(wandb_run)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a row; several of one step are rows of their own in metrics.jsonl."""
        plain = {name: n if isinstance(n, int) else float(n) for name, n in numbers.items()}
        for sink in self._sinks:
            sink.write(int(step), plain)

    def has(self, step: int, name: str) -> bool:
        """Whether a row of this step has such a number; all processes ask, and get one answer."""
        rows = read_metrics(self._directory) if is_first() else []
        found = any(row["step"] == step and name in row for row in rows)
        return bool(broadcast(np.array(found)))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, Stopped):
            self.finish(error.status)
        elif isinstance(error, InputError):
            self.finish(2)

    def finish(self, status: int = 0) -> None:
        """Nothing is written any more; `status` is the exit status that W&B shows."""
        for sink in self._sinks:
            sink.finish(status)
