"""A fine-tuning run, from the options to a model that transformers loads."""

import dataclasses
import shutil
import warnings

import numpy as np

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.load import LoadOptions, load_checkpoint, load_shapes
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.distributed import agreed, broadcast, is_first
from neox_eqx.sharding.rules import TRAINING_RULES
from neox_eqx.training.log.loss_picture import draw_loss
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.log.wandb_run import check_login
from neox_eqx.training.run.checkpoints import Checkpoints
from neox_eqx.training.run.job import Job
from neox_eqx.training.run.loop import train
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.run.result import ADAPTER, MODEL, save_result
from neox_eqx.training.run.settings import claimed, keep_settings
from neox_eqx.training.update.state import TrainState, abstract_state
from neox_eqx.training.update.trained import Trained, trainable

_RESULTS = (MODEL, ADAPTER)


def fine_tune(options: TrainingOptions) -> None:
    """Trains, or goes on with the run in `options.output`, and writes the model to its hf/.

    Raises:
        InputError: the options, files or data are wrong, there is no login to W&B, or no room for
            a checkpoint.
        Stopped: after a signal, with a checkpoint; or too many batches were not finite.
    """
    if options.wandb_mode != "disabled":
        with agreed():
            if is_first():
                check_login(options.wandb_mode)
    job = Job.of(options)
    output, last = options.output, job.recipe.steps
    result = output / (ADAPTER if options.tuning.positions else MODEL)
    with claimed(output):
        checkpoints = Checkpoints(output / "checkpoints", options.keep)
        with agreed():
            if is_first():
                _check_it_goes_on(job, checkpoints.latest)
        if checkpoints.latest == last and broadcast(np.array(result.exists())):
            print(f"{result}: the model after {last} steps, which was there already")
            return
        with _log(job, checkpoints.latest or 0) as log:
            _train(job, checkpoints, log)
        print(f"{result}: the model after {last} steps")


def _check_it_goes_on(job: Job, step: int | None) -> None:
    """Checks that the directory is this run's; `step` is that of its newest checkpoint."""
    output, last = job.options.output, job.recipe.steps
    if step is None and any((output / name).exists() for name in _RESULTS):
        raise InputError(
            f"{output}: holds a result, and no checkpoint to go on from; name another --output"
        )
    if step is not None and step > last:
        raise InputError(f"{output}: is at step {step} already, and --steps {last} is less")
    keep_settings(output, job.settings | job.start.source.commits, goes_on=step is not None)


def _log(job: Job, step: int) -> RunLog:
    with agreed():
        log = RunLog(
            job.options.output,
            wandb_mode=job.options.wandb_mode,
            config=job.settings | job.start.source.commits | dataclasses.asdict(job.data.counts),
            resume_step=step,
        )
    print(job.summary)
    if is_first():
        for warning in job.warnings:
            warnings.warn(warning, stacklevel=2)
    return log


def _train(job: Job, checkpoints: Checkpoints, log: RunLog) -> None:
    """Trains, draws how it went, and writes the result."""
    output = job.options.output
    state, frozen = _begin(job, checkpoints)
    if is_first():
        # Results of a run with fewer steps: should this one be killed, they must not pass for its.
        for name in _RESULTS:
            shutil.rmtree(output / name, ignore_errors=True)
    state = train(job, state, frozen, checkpoints, log)
    if is_first():
        draw_loss(output)
    save_result(
        state.model,
        frozen,
        output,
        source=job.start.source,
        quantize=job.start.form,
        companions=job.start.source.companions,
    )


def _begin(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, GPTNeoX | None]:
    """The state of the newest checkpoint, or else of the model before any step.

    Beside it are the parameters that are not trained.
    """
    start, tuning, recipe = job.start, job.start.tuning, job.recipe
    checkpoint = Checkpoint.open(start.source)
    options = LoadOptions(
        dtype=recipe.compute_dtype if tuning.is_partial else "float32",
        mesh=job.mesh,
        quantize=start.form,
        rules=TRAINING_RULES,
        # Computing a layer again for its gradient saves memory in a scan alone: unrolled, XLA for
        # a CPU sees that it is the same and computes it once.
        stacked=True,
    )
    trained: Trained
    if checkpoints.latest is not None and not tuning.is_partial:
        trained, frozen = load_shapes(checkpoint, options), None  # a checkpoint has all numbers
    else:
        model = load_checkpoint(checkpoint, options)
        trained, frozen = trainable(model, tuning, recipe, job.prompt, start.adapter)
    shapes = abstract_state(trained, recipe)
    if checkpoints.latest is not None:
        return checkpoints.restore(shapes), frozen
    with agreed():
        checkpoints.check_space(shapes)
    return TrainState.start(trained, recipe), frozen
