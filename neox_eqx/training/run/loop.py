"""The steps of a run, with its evaluations and checkpoints."""

import os
import signal

import numpy as np

from neox_eqx.errors import Stopped
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.data.dataset import to_devices
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.run.checkpoints import Checkpoints
from neox_eqx.training.run.interruption import Interruption
from neox_eqx.training.run.job import Job
from neox_eqx.training.run.report import Report
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step

STATUS: dict[int, int] = {signal.SIGTERM: os.EX_TEMPFAIL, signal.SIGINT: 128 + signal.SIGINT}
"""The exit status after a signal and a checkpoint; EX_TEMPFAIL, 75, asks to try again."""


def train(
    job: Job,
    state: TrainState,
    frozen: GPTNeoX | None,
    checkpoints: Checkpoints,
    log: RunLog,
) -> TrainState:
    """Takes the steps that are left, with their evaluations, and writes the last checkpoint.

    While the devices compute a step, the host reports the step before and makes the next batch.
    What was due when an earlier run was ended is done first.

    Raises:
        InputError: a checkpoint cannot be written.
        Stopped: a signal came, for which there is a checkpoint; or batches were not finite.
    """
    step, asked = int(state.step), 0
    with Interruption() as interruption:
        with checkpoints, Report(job, log, state) as report:

            def evaluate() -> None:
                if job.held_out and job.evaluates_at(step):
                    with report.paused():
                        report.evaluated(
                            step, job.held_out.measure(state.model, frozen, job.recipe)
                        )

            if not log.has(step, "eval_loss"):
                evaluate()
            while step < job.recipe.steps and not asked:
                rows = job.data.batch(step)
                batch = to_devices(rows, state.model.mesh)
                state, metrics = train_step(state, batch, job.recipe, frozen)
                step += 1
                report.add(step, int(np.count_nonzero(rows.documents)), metrics)
                asked = interruption.ask()
                if asked or job.saves_at(step):
                    with report.paused():
                        checkpoints.save(state)
                if not asked:
                    evaluate()
        asked = asked or interruption.ask(wait=True)
    if asked:
        raise Stopped(
            f"{signal.Signals(asked).name}: the checkpoint of step {step} is in "
            f"{job.options.output}, where the same command goes on",
            STATUS[asked],
        )
    return state
