"""What is told of each step while a run goes on."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple

import jax
from tqdm import tqdm

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import Stopped
from neox_eqx.hardware import peak_flops
from neox_eqx.sharding.distributed import is_first
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.run.job import Job
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import Metrics

NOT_FINITE = 1
"""The exit status after too many batches that were not finite."""


class _Begun(NamedTuple):
    """A step that the devices may still be at."""

    step: int
    tokens: int
    metrics: Metrics


class Report:
    """A row in the log for each step, and a bar on the terminal."""

    def __init__(self, job: Job, log: RunLog, state: TrainState):
        self._job, self._log = job, log
        step, skipped = int(state.step), int(state.skipped_in_a_row)
        self._skipped = list(range(step - skipped + 1, step + 1))
        self._skipped_in_all = int(state.skipped)
        mesh = state.model.mesh
        self._peak = peak_flops(mesh.size if mesh else 1)
        self._flops = flops_per_token(
            job.start.config, job.data.row_length, is_partial=job.start.tuning.is_partial
        )
        self._bar = tqdm(
            total=job.recipe.steps,
            initial=step,
            unit=" steps",
            disable=None if is_first() else True,
        )
        self._begun: _Begun | None = None
        self._time = time.perf_counter()

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._skipped_in_all and is_first() and not error:
            count = self._skipped_in_all
            print(f"{count} steps in all were not finite, and learnt nothing", file=sys.stderr)

    def add(self, step: int, tokens: int, metrics: Metrics) -> None:
        """Notes that a step was begun, waits for the one before and reports that.

        Raises:
            Stopped: too many steps in a row were not finite.
        """
        before, self._begun = self._begun, _Begun(step, tokens, metrics)
        if before:
            self._tell(before)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Reports all steps that were begun; the time that the block takes counts for none.

        Raises:
            Stopped: as `add` does.
        """
        begun, self._begun = self._begun, None
        if begun:
            self._tell(begun)
        yield
        self._time = time.perf_counter()

    def _tell(self, begun: _Begun) -> None:
        metrics: Metrics = jax.device_get(begun.metrics)
        now = time.perf_counter()
        tokens_per_second = begun.tokens / (now - self._time)
        self._time = now
        numbers = {
            "loss": float(metrics.loss),
            "grad_norm": float(metrics.gradient_norm),
            "learning_rate": float(metrics.learning_rate),
            "tokens_per_second": tokens_per_second,
        }
        if self._peak:
            numbers["flops_share"] = tokens_per_second * self._flops / self._peak
        self._log.write(begun.step, numbers)
        self._bar.set_postfix_str(
            f"loss {numbers['loss']:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False
        )
        self._bar.update()
        self._count_skipped(begun.step, bool(metrics.finite))

    def evaluated(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes the row of an evaluation, and prints it."""
        self._log.write(step, numbers)
        listed = ", ".join(f"{name} {number:.4f}" for name, number in numbers.items())
        with tqdm.external_write_mode():
            print(f"step {step}: {listed}", flush=True)

    def _count_skipped(self, step: int, is_finite: bool) -> None:
        if is_finite:
            self._skipped = []
            return
        self._skipped.append(step)
        self._skipped_in_all += 1
        batches = [f"step {step}: {self._examples(step)}" for step in self._skipped]
        if len(batches) >= self._job.options.max_skipped:
            raise Stopped(
                f"loss or gradients were not finite {len(batches)} times in a row; the batches "
                f"had these examples of {self._job.options.data}: {'; '.join(batches)}",
                NOT_FINITE,
            )
        if is_first():
            warning = f"{batches[-1]}: loss or gradients are not finite, and nothing is learnt"
            tqdm.write(warning, file=sys.stderr)

    def _examples(self, step: int) -> str:
        return ", ".join(map(str, self._job.data.ids(step - 1)))


def flops_per_token(config: GPTNeoXConfig, length: int, *, is_partial: bool = False) -> float:
    """The operations that training on a token of a row of `length` needs, as PaLM counts them.

    Six for each parameter that tokens are multiplied with, forwards and backwards, and attention
    as over the whole row. With `is_partial` these parameters are frozen and need four, and what
    is trained beside them is too little to count. What remat computes again does not count.
    """
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    parameters = config.num_hidden_layers * layer + config.vocab_size * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    return (4 if is_partial else 6) * parameters + attention
