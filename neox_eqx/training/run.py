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
from neox_eqx.training.settings import claim
from neox_eqx.training.state import TrainState, abstract_state


def fine_tune(options: TrainingOptions) -> None:
    """Trains, or goes on with the run in `options.output`, and writes the model to its hf/.

    Raises:
        InputError: the options, files or data are wrong, or there is no room for a checkpoint.
        Stopped: after a signal, with a checkpoint; or too many batches were not finite.
    """
    job = Job.of(options)
    claim(options.output, job.settings)
    checkpoints = Checkpoints(options.output / "checkpoints", options.keep)
    first = checkpoints.latest or 0
    with agreed():
        if first > job.recipe.steps:
            raise InputError(
                f"{options.output}: is at step {first} already, and --steps {job.recipe.steps} "
                "is less"
            )
        log = RunLog(
            options.output,
            wandb_mode=options.wandb_mode,
            config=job.settings,
            resume_step=first,
        )
    try:
        state = train(job, _begin(job, checkpoints), checkpoints, log)
    except (Stopped, InputError) as error:
        log.finish(getattr(error, "status", 2))
        raise
    _export(job, state, is_new=first < job.recipe.steps)
    log.finish()


def _begin(job: Job, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest checkpoint if there is one, else that of the model as it came."""
    how: dict[str, Any] = {"dtype": "float32", "mesh": job.mesh, "rules": TRAINING_RULES}
    shapes = abstract_state(load_shapes(job.source, **how), job.recipe)
    if checkpoints.latest is not None:
        return checkpoints.restore(shapes)
    with agreed():
        checkpoints.check_space(shapes)
    return TrainState.start(load(job.source, **how), job.recipe)


def _export(job: Job, state: TrainState, *, is_new: bool) -> None:
    """Writes hf/ and loss.png where an end of the run before this one has not."""
    directory = job.options.output / "hf"
    with agreed():
        is_there = directory.exists()
    if is_there and not is_new:
        return
    if is_there and is_first():
        shutil.rmtree(directory)
    save(state.model, directory, find_companions(job.source))
    if is_first():
        draw_loss(job.options.output)
    print(f"{directory}: the model after {job.recipe.steps} steps")
