"""The commands that run on the pod, and whether what they leave is right to the bit."""

import abc
import filecmp
import json
import shutil
from pathlib import Path
from typing import Any

from neox_eqx.training.log.metrics_file import read_metrics
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import write_data

STEPS, EVERY = 12, 3
PROMPTS = 24
# Of a row of metrics.jsonl: what a clock says differs from run to run.
_TIMES = ("second", "flops_share")


class Task(abc.ABC):
    """A command on `count` hosts that writes to `output`, on a disk that they share."""

    rows: int
    """How many rows a whole output has at least."""

    def __init__(self, disk: Path, count: int) -> None:
        self.disk, self.count = disk, count
        self.output = disk / f"{type(self).__name__}-{count}"
        self.reference = disk / f"{type(self).__name__}-{count}-undisturbed"

    @abc.abstractmethod
    def words(self) -> list[str]:
        """The command, which writes to `self.output`."""

    @abc.abstractmethod
    def progress(self) -> int:
        """How many rows the output has at this moment."""

    @abc.abstractmethod
    def complaint(self) -> str:
        """What is wrong with the output of a command that has succeeded, or nothing."""

    def half_written(self) -> str:
        """What of the output is not whole, after a command that has failed, or nothing."""
        return ""

    @abc.abstractmethod
    def is_saving(self) -> bool:
        """Whether something is being written that has not its name yet."""

    def keep_as_reference(self) -> None:
        self.output.rename(self.reference)

    def remove(self) -> None:
        for path in self.disk.glob(f"*{self.output.name}*"):
            if path.name != self.reference.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Generate(Task):
    """Samples of the demo model for a file of prompts."""

    rows = PROMPTS

    def words(self) -> list[str]:
        prompts = self.disk / "prompts.txt"
        prompts.write_text("".join(f"Tom has {n} boxes\n" for n in range(PROMPTS)))
        options = ["--prompt-file", prompts, "--output", self.output, "--temperature", 1]
        options += ["--max-new-tokens", 16]
        mesh = f"data={self.count // 2},model=2"
        return [str(word) for word in ("python", "generate.py", *options, "--mesh", mesh)]

    def progress(self) -> int:
        paths = [self.output, *self.disk.glob(f".{self.output.name}*")]
        return max((path.read_bytes().count(b"\n") for path in paths if path.is_file()), default=0)

    def complaint(self) -> str:
        if not self.output.exists():
            return "no output"
        if self.reference.exists() and not filecmp.cmp(self.output, self.reference, shallow=False):
            return "other rows than those of an undisturbed run"
        return ""

    def half_written(self) -> str:
        return self.complaint() if self.output.exists() else ""

    def is_saving(self) -> bool:
        return self.progress() > PROMPTS // 2


class Train(Task):
    """A few steps of a tiny model, with evaluations, checkpoints and files of W&B."""

    rows = STEPS

    def words(self) -> list[str]:
        model, data = self.disk / "model", self.disk / "data.jsonl"
        if not model.exists():
            save_checkpoint(model, byte_level())
            write_data(data, 30)
        options = ["--model", model, "--data", data, "--eval-data", data, "--output", self.output]
        options += ["--steps", STEPS, "--batch-size", 8, "--learning-rate", 1e-2]
        options += ["--eval-every", 6, "--eval-questions", 2, "--save-every", EVERY]
        options += ["--wandb-mode", "offline", "--mesh", f"data={self.count},model=1"]
        return [str(word) for word in ("python", "train.py", *options)]

    def progress(self) -> int:
        path = self.output / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def complaint(self) -> str:
        rows = _numbers(self.output)
        steps = [row["step"] for row in rows if "loss" in row]
        if steps != list(range(1, STEPS + 1)):
            return f"the steps of metrics.jsonl are {steps}"
        if not (self.output / "hf").is_dir():
            return "no hf/"
        if self.reference.exists():
            if rows != _numbers(self.reference):
                return "other numbers than those of an undisturbed run"
            return _difference(self.output / "hf", self.reference / "hf")
        return ""

    def half_written(self) -> str:
        if (self.output / "metrics.jsonl").exists():
            lines = (self.output / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
            list(map(json.loads, lines))
        if (self.output / "hf").exists() and self.reference.exists():
            return _difference(self.output / "hf", self.reference / "hf")
        return ""

    def is_saving(self) -> bool:
        return bool(list((self.output / "checkpoints").glob("*-tmp*")))


def _numbers(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what the clock says, each step's in their order."""
    rows = read_metrics(directory)
    return [
        {name: value for name, value in row.items() if not any(t in name for t in _TIMES)}
        for row in rows
    ]


def _difference(one: Path, other: Path) -> str:
    names = sorted({path.name for folder in (one, other) for path in folder.iterdir()})
    equal, *_ = filecmp.cmpfiles(one, other, names, shallow=False)
    differing = sorted(set(names) - set(equal))
    return f"not as an undisturbed run's: {', '.join(differing)}" if differing else ""
