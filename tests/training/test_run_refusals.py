"""What a run refuses, in one line and before anything is compiled; and how it gives up."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from neox_eqx.command_line import parse
from neox_eqx.errors import InputError, Stopped
from neox_eqx.training.log.metrics_file import read_metrics
from neox_eqx.training.run.fine_tune import fine_tune
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.update.tuning import Tuning
from tests.sharding.processes import ROOT, finish, start
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import write_data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    save_checkpoint(directory / "model", byte_level())
    write_data(directory / "data.jsonl", 9)
    return directory


def options(files: Path, output: Path, **own: Any) -> TrainingOptions:
    given = {"steps": 8, "batch_size": 4, "wandb_mode": "disabled", "mesh": "data=1,model=1"} | own
    return TrainingOptions(files / "data.jsonl", output, model=str(files / "model"), **given)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"epochs": 1.0}, "--steps and --epochs exclude each other"),
        ({"steps": None, "epochs": -1.0}, "epochs must be above 0, not -1.0"),
        ({"steps": 0}, "steps must be above 0, not 0"),
        ({"keep": 0}, "keep must be above 0, not 0"),
        ({"seed": 2**32}, "seed must be from 0 to 4294967295, not 4294967296"),
        ({"eval_every": 2}, "eval_every is of use with eval_data only"),
        ({"eval_questions": -1}, "eval_questions must not be below 0, not -1"),
        ({"warmup_steps": 8}, "warmup_steps must be from 0 to below the 8 steps, not 8"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"max_length": 100}, "max_length 100 is above the 64 tokens of the model's context"),
        ({"grad_accumulation": 3}, "batch_size 4 does not divide into 3 parts"),
        ({"mesh": "data=8"}, "the 4 rows of a part of the batch do not divide over data=8"),
        ({"mesh": "data=4,model=2", "grad_accumulation": 2}, "the 2 rows of a part of the batch"),
        ({"mesh": "data=2,model=3"}, "model=3 does not divide"),
        ({"mesh": "model=2,layout=2d"}, "heads and layout are not for training"),
        ({"eval_data": Path("/absent.jsonl")}, "/absent.jsonl: cannot be read"),
        ({"too_long": "drop", "max_length": 4}, "all 9 examples are too long for max_length 4"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    files: Path, tmp_path: Path, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        fine_tune(options(files, tmp_path / "run", **own))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a"', "is not valid JSON"),
        ('{"question": "a", "answer": " "}', "the answer is empty"),
        ('{"question": 1, "answer": "b"}', "the question must be a text"),
    ],
)
def test_a_broken_line_is_named(files: Path, tmp_path: Path, line: str, message: str) -> None:
    data = write_data(tmp_path / "data.jsonl", 3)
    data.write_text(data.read_text() + line + "\n")
    own = TrainingOptions(data, tmp_path / "run", model=str(files / "model"), wandb_mode="disabled")
    with pytest.raises(InputError, match=f"{data}, line 4: {message}"):
        fine_tune(own)


def test_a_directory_of_something_else_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no run, and is not empty; name another --output"):
        fine_tune(options(files, tmp_path))
    with pytest.raises(InputError, match="holds no run"):
        fine_tune(options(files, tmp_path / "thesis.txt"))
    with pytest.raises(InputError, match="cannot be made: Not a directory"):
        fine_tune(options(files, tmp_path / "thesis.txt" / "run"))


def test_a_run_gives_up_after_batches_that_are_not_finite(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first update makes the parameters infinite; then each batch is skipped."""
    own = options(files, tmp_path / "run", learning_rate=1e38, max_skipped=3, save_every=1)
    with pytest.raises(Stopped) as stopped:
        fine_tune(own)
    assert stopped.value.status == 1
    message = str(stopped.value)
    assert "loss or gradients were not finite 3 times in a row" in message
    assert f"of {own.data}: step 2: " in message and "\n" not in message
    rows = read_metrics(tmp_path / "run")
    assert [row["loss"] is None for row in rows] == [False, True, True, True]
    numbers = {int(n) for part in message.split(": ")[-3:] for n in part.split(";")[0].split(",")}
    assert numbers <= set(range(1, 10)) and len(numbers) > 4
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in warnings] == ["step 2", "step 3"]
    # Gone on with, it gives up at the next one.
    with pytest.raises(Stopped, match="not finite 3 times"):
        fine_tune(own)
    # If it may, it goes on to its end, and says how often it was so.
    capsys.readouterr()
    fine_tune(dataclasses.replace(own, max_skipped=9))
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "7 steps in all were not finite, and learnt nothing"


def test_the_command_says_it_in_one_line(files: Path, tmp_path: Path) -> None:
    words = ["--model", files / "model", "--data", files / "data.jsonl", "--output", tmp_path / "r"]
    online = {"WANDB_API_KEY": "", "WANDB_MODE": "online", "HOME": str(tmp_path)}
    (ended,) = finish(start([ROOT / "train.py", *words], 1, environments=[online]))
    assert ended.status == 2
    assert ended.err.startswith("train.py: error: ") and ended.err.count("\n") == 1
    assert "wandb login" in ended.err and "--wandb-mode offline" in ended.err


def test_a_missing_login_leaves_nothing_behind(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match="no W&B login"):
        fine_tune(options(files, tmp_path / "run", wandb_mode="online"))
    assert not (tmp_path / "run").exists()


def test_every_option_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(TrainingOptions, "train.py", ["--help"])
    said = " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    fields = (*dataclasses.fields(TrainingOptions), *dataclasses.fields(Tuning))
    for name in {field.name.replace("_", "-") for field in fields} - {"tuning", "origin"}:
        (help_text,) = re.findall(rf"--{name}[ ,](.*?) \((?:default|required)", said)
        assert help_text.endswith("."), name
    assert len(fields) > 25 and "WANDB_PROJECT" in said
