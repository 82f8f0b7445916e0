"""What a run tells: metrics.jsonl, a row at a time, and the same at Weights & Biases."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.log.metrics_file import read_metrics
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.log.wandb_run import check_login
from tests.training.wandb_file import read_history, read_name

ROOT = Path(__file__).parents[2]


def open_log(directory: Path, wandb_mode: str = "disabled", resume_step: int = 0) -> RunLog:
    return RunLog(
        directory, wandb_mode=wandb_mode, config={"learning_rate": 0.1}, resume_step=resume_step
    )


def write(log: RunLog, steps: range) -> None:
    """A row a step, one of which was not finite, and an evaluation every second step."""
    for step in steps:
        loss = np.float64("nan") if step == 2 else np.float64(1 / step)
        log.write(step, {"loss": loss, "tokens_per_second": 7 * step})
        if step % 2 == 0:
            log.write(step, {"eval_loss": 2 / step, "exact_match": 0.5})


def lines(directory: Path) -> list[str]:
    return (directory / "metrics.jsonl").read_text().splitlines()


def test_a_row_is_in_the_file_when_it_is_written(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    write(log, range(1, 4))
    assert lines(tmp_path) == [
        '{"step": 1, "loss": 1.0, "tokens_per_second": 7}',
        '{"step": 2, "loss": null, "tokens_per_second": 14}',
        '{"step": 2, "eval_loss": 1.0, "exact_match": 0.5}',
        '{"step": 3, "loss": 0.3333333333333333, "tokens_per_second": 21}',
    ]
    log.finish()


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    write(log, range(1, 8))
    log.finish()
    whole = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while it wrote
    log = open_log(tmp_path, resume_step=4)
    assert lines(tmp_path) == [line for line in whole if json.loads(line)["step"] <= 4]
    write(log, range(5, 8))
    log.finish()
    assert lines(tmp_path) == whole
    with open_log(tmp_path) as log:  # killed before its first checkpoint
        log.write(0, {"eval_loss": 3})
    open_log(tmp_path).finish()
    assert lines(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_it_knows_which_evaluations_it_has(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        write(log, range(1, 4))
        assert [log.has(step, "eval_loss") for step in range(5)] == [
            False,
            False,
            True,
            *[False] * 2,
        ]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Files may not be larger than 300 bytes, which is as a disk that has no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(InputError, match="metrics.jsonl: cannot be written: File too large"):
            with open_log(tmp_path) as log:
                write(log, range(1, 30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps\n", "line 1: is not valid JSON"),
        ('{"step": 1}\n{"loss": 1}\n', "line 2: has no step"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        open_log(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="metrics.jsonl: is a pipe or a device"):
        open_log(tmp_path)


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metrics.jsonl: cannot be written: No such file"):
        open_log(tmp_path / "none")


def by_step(directory: Path) -> dict[int, dict[str, Any]]:
    """metrics.jsonl as W&B has it: a step's rows in one."""
    steps: dict[int, dict[str, Any]] = {}
    for row in read_metrics(directory):
        steps.setdefault(row.pop("step"), {}).update(row)
    return steps


def test_offline_files_of_wandb_hold_what_metrics_jsonl_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path, "offline")
    write(log, range(1, 600))  # more than a block of the file
    log.finish()
    (first,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert read_history(first) == by_step(tmp_path) and len(by_step(tmp_path)) == 599
    assert read_name(first) == tmp_path.name
    time.sleep(1)  # W&B names the files by the second
    monkeypatch.setenv("WANDB_NAME", "of my own")
    log = open_log(tmp_path, "offline", resume_step=3)
    write(log, range(4, 8))
    log.finish()
    (second,) = {*tmp_path.glob("wandb/offline-run-*/*.wandb")} - {first}
    assert second.name == first.name  # the same id
    assert read_name(second) == "of my own"
    assert read_history(second) == by_step(tmp_path) and len(by_step(tmp_path)) == 7


def test_wandb_may_fail_without_the_run(tmp_path: Path) -> None:
    # In a process of its own, since W&B is of no use to it afterwards.
    program = """
import psutil, sys
from pathlib import Path
from tests.training.test_log import open_log, write
log = open_log(Path(sys.argv[1]), "offline")
write(log, range(1, 3))
(service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
service.kill()
service.wait()
write(log, range(3, 7))
log.finish()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("W&B failed, and the run goes on without it") == 1
    assert "Traceback" not in ended.stderr
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 2, 3, 4, 4, 5, 6, 6]


def test_a_missing_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    with pytest.raises(InputError, match="no W&B login; run `wandb login`.*--wandb-mode offline"):
        check_login("online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match="WANDB_API_KEY invalid.*--wandb-mode offline") as raised:
        check_login("online")
    assert "\n" not in str(raised.value)
    check_login("offline")
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_imported_only_where_it_is_wanted(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from neox_eqx.training.log.run_log import RunLog
RunLog(Path(sys.argv[1]), wandb_mode="disabled", config={}).finish()
sys.exit("wandb" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT).returncode == 0
