"""What a run tells of its steps: a bar on a terminal, and of batches that were not finite."""

import io
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import Stopped
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.run.job import Job
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.run.report import NOT_FINITE, Report
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import Metrics
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import write_data

LAST = "2 steps in all were not finite, and learnt nothing"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, TrainState]:
    """A run of 5 steps before its first."""
    directory = tmp_path_factory.mktemp("run")
    save_checkpoint(directory / "model", byte_level())
    data = write_data(directory / "data.jsonl", 9)
    given = {"model": str(directory / "model"), "mesh": "data=1,model=1", "batch_size": 2}
    job = Job.of(TrainingOptions(data, directory / "run", steps=5, max_skipped=2, **given))
    return job, TrainState.start(load(directory / "model", mesh="data=1,model=1"), job.recipe)


def told(begun: tuple[Job, TrainState], directory: Path, finite: list[bool]) -> None:
    """Reports steps, of which some were not finite, and an evaluation after them."""
    job, state = begun
    log = RunLog(directory, wandb_mode="disabled", config={})
    with log, Report(job, log, state) as report:
        for step, is_finite in enumerate(finite, 1):
            loss, rate, norm = (jnp.float32(number) for number in (1 / step, 0.5, 2.0))
            report.add(step, 64, Metrics(loss, norm, rate, jnp.array(is_finite)))
        with report.paused():
            report.evaluated(len(finite), {"eval_loss": 0.25})


def test_on_a_terminal_a_bar_counts_the_steps_and_ends_before_what_is_said_last(
    begun: tuple[Job, TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    told(begun, tmp_path, [False, True, False, True, True])
    *_, bar, last = screen.getvalue().splitlines()
    assert last == LAST
    assert "5/5" in bar and "loss 0.200, " in bar and " tokens/s" in bar


def test_elsewhere_there_is_no_bar(
    begun: tuple[Job, TrainState], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(begun, tmp_path, [False, True, False, True])
    out, err = capsys.readouterr()
    assert out == "step 4: eval_loss 0.2500\n"
    first, third, last = err.splitlines()
    assert re.fullmatch(r"step 1: \d, \d: loss or gradients are not finite, .* learnt", first)
    assert third.startswith("step 3: ") and last == LAST


def test_too_many_in_a_row_end_the_run_with_the_examples_that_they_had(
    begun: tuple[Job, TrainState], tmp_path: Path
) -> None:
    with pytest.raises(
        Stopped, match=r"not finite 2 times in a row; .*: step 2: .*; step 3: \d"
    ) as ended:
        told(begun, tmp_path, [True, False, False, True])
    assert ended.value.status == NOT_FINITE


def test_an_evaluation_is_seen_at_once_where_the_output_is_a_file(
    begun: tuple[Job, TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    out = io.TextIOWrapper(file)
    monkeypatch.setattr(sys, "stdout", out)
    told(begun, tmp_path, [True])
    assert file.getvalue() == b"step 1: eval_loss 0.2500\n"
