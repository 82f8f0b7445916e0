"""Where the numbers of a run go: to its directory, and to Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from neox_eqx.sharding.distributed import is_first
from neox_eqx.training.metrics_file import MetricsFile, read_metrics
from neox_eqx.training.wandb_run import WandbRun

WandbMode = Literal["online", "offline", "disabled"]


class RunLog:
    """The log of a run that goes on after `resume_step`; only process 0 writes anything.

    Opened within `agreed`, and before anything is compiled: a missing login is noticed here.

    Raises:
        InputError: a file cannot be written; online, there is no login, or W&B cannot be reached.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wandb_mode: WandbMode,
        config: Mapping[str, Any],
        name: str | None = None,
        resume_step: int = 0,
    ):
        self._sinks: list[MetricsFile | WandbRun] = []
        if not is_first():
            return
        wandb_run = None
        if wandb_mode != "disabled":
            name = name or directory.resolve().name
            wandb_run = WandbRun(directory, mode=wandb_mode, name=name, config=config)
        self._sinks.append(MetricsFile(directory, resume_step))
        if wandb_run:
            wandb_run.catch_up(read_metrics(directory))
            self._sinks.append(wandb_run)

    def write(self, step: int, **numbers: float) -> None:
        """Adds a row; several of one step are rows of their own in metrics.jsonl."""
        plain = {name: n if isinstance(n, int) else float(n) for name, n in numbers.items()}
        for sink in self._sinks:
            sink.write(int(step), plain)

    def finish(self, status: int = 0) -> None:
        """Nothing is written any more; `status` is the exit status that W&B shows."""
        for sink in self._sinks:
            sink.finish(status)
