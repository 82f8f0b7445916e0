"""The steps of a run, with its evaluations and checkpoints."""

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from neox_eqx.errors import Stopped
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.batch import Batch
from neox_eqx.training.checkpoints import Checkpoints
from neox_eqx.training.dataset import TrainingData, place
from neox_eqx.training.interruption import Interruption
from neox_eqx.training.job import Job
from neox_eqx.training.log import RunLog
from neox_eqx.training.report import Report
from neox_eqx.training.state import TrainState
from neox_eqx.training.step import train_step

STATUS: dict[int, int] = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 128 + signal.SIGINT}
"""The exit status after a signal and a checkpoint; EX_TEMPFAIL, 75, asks to try again."""


def train(
    job: Job,
    state: TrainState,
    frozen: GPTNeoX | None,
    checkpoints: Checkpoints,
    log: RunLog,
) -> TrainState:
    """Takes the steps that are left, and begins to write a checkpoint of the last one.

    While the devices are at a step, the host makes the next batch and tells of the step before.

    Raises:
        InputError: a checkpoint cannot be written.
        Stopped: a signal came, for which a checkpoint is begun; or batches were not finite.
    """
    first, last = int(state.step) + 1, job.recipe.steps
    batches = _batches(job.data, first, last, state.model.mesh)
    upcoming = next(batches, None)
    number = 0
    with Interruption() as interruption, Report(job, log, state) as report:

        def evaluate(step: int) -> None:
            if job.held_out:
                report.evaluated(step, job.held_out.measure(state.model, frozen, job.recipe))

        if first == 1:
            with report.paused():
                evaluate(0)
        while upcoming and not number:
            step, tokens, batch = upcoming
            state, metrics = train_step(state, batch, job.recipe, frozen)
            upcoming = next(batches, None)
            report.add(step, tokens, metrics)
            number = interruption.ask()
            if not number and job.evaluates_at(step):
                with report.paused():
                    evaluate(step)
            if number or job.saves_at(step):
                with report.paused():
                    checkpoints.save(state)
    if number:
        raise Stopped(
            f"{signal.Signals(number).name}: the checkpoint of step {step} is in "
            f"{job.options.output}, where the same command goes on",
            STATUS[number],
        )
    return state


class _Upcoming(NamedTuple):
    step: int
    """From 1 on."""
    tokens: int
    """In the batch, without padding."""
    batch: Batch


def _batches(data: TrainingData, first: int, last: int, mesh: Mesh | None) -> Iterator[_Upcoming]:
    """The batches of these steps, each made when it is asked for."""
    for step in range(first, last + 1):
        rows = data.batch(step - 1)
        yield _Upcoming(step, int(np.count_nonzero(rows.documents)), place(rows, mesh))
