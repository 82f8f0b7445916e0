"""A fine-tuning run, from the options to a model that transformers loads."""

import shutil
from typing import Any

from neox_eqx.checkpoint.load import load, load_shapes
from neox_eqx.checkpoint.save import save
from neox_eqx.convert.source import find_companions
from neox_eqx.errors import InputError, Stopped
from neox_eqx.sharding.distributed import agreed, is_first
from neox_eqx.sharding.rules import TRAINING_RULES
from neox_eqx.training.checkpoints import Checkpoints
from neox_eqx.training.job import Job
from neox_eqx.training.log import RunLog
from neox_eqx.training.loop import train
from neox_eqx.training.loss_picture import draw_loss
from neox_eqx.training.options import TrainingOptions
from neox_eqx.training.settings import claimed
from neox_eqx.training.state import TrainState, abstract_state

HF = "hf"
"""The directory of the result in that of the run."""


def fine_tune(options: TrainingOptions) -> None:
    """Trains, or goes on with the run in `options.output`, and writes the model to its hf/.

    Raises:
        InputError: the options, files or data are wrong, or there is no room for a checkpoint.
        Stopped: after a signal, with a checkpoint; or too many batches were not finite.
    """
    job = Job.of(options)
    with claimed(options.output, job.settings):
        _run(job)


def _run(job: Job) -> None:
    output, last = job.options.output, job.recipe.steps
    checkpoints = Checkpoints(output / "checkpoints", job.options.keep)
    first = checkpoints.latest or 0
    with agreed():
        if first > last:
            raise InputError(f"{output}: is at step {first} already, and --steps {last} is less")
        is_complete = first == last and (output / HF).exists()
    if is_complete:
        print(f"{output / HF}: the model after {last} steps, which was there already")
        return
    with agreed():
        log = RunLog(
            output, wandb_mode=job.options.wandb_mode, config=job.settings, resume_step=first
        )
    if is_first():
        # Of a run with fewer steps: should this one be killed, it must not pass for its result.
        shutil.rmtree(output / HF, ignore_errors=True)
    try:
        state = train(job, _begin(job, checkpoints), checkpoints, log)
        checkpoints.finish()
        save(state.model, output / HF, find_companions(job.source))
    except Stopped as stopped:
        checkpoints.finish()
        log.finish(stopped.status)
        raise
    except InputError:
        log.finish(2)
        raise
    log.finish()
    if is_first():
        draw_loss(output)
    print(f"{output / HF}: the model after {last} steps")


def _begin(job: Job, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest checkpoint if there is one, else that of the model as it came."""
    how: dict[str, Any] = {"dtype": "float32", "mesh": job.mesh, "rules": TRAINING_RULES}
    shapes = abstract_state(load_shapes(job.source, **how), job.recipe)
    if checkpoints.latest is not None:
        return checkpoints.restore(shapes)
    with agreed():
        checkpoints.check_space(shapes)
    return TrainState.start(load(job.source, **how), job.recipe)
