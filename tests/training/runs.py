"""Runs of train.py on a tiny checkpoint, and what they leave."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.sharding.processes import ROOT, start

STEPS, EVERY = 40, 4
"""The steps of a run, and those from one evaluation or checkpoint to the next."""
SECONDS = 120  # that a test waits for a process at most, on a busy machine


def write_data(path: Path, count: int) -> Path:
    """So many examples of a question and an answer, of different lengths."""
    rows = [
        {"question": f"{'ab' * (n % 5)} {n}?", "answer": f"{n} and {n + 1}\n#### {2 * n + 1}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Run:
    """The options of a run, and its directory."""

    def __init__(self, model: Path, data: Path, output: Path, cache: Path):
        self.output, self._cache = output, cache
        self._options = {
            **{"--model": model, "--data": data, "--output": output, "--steps": STEPS},
            **{"--batch-size": 4, "--learning-rate": 1e-2, "--wandb-mode": "disabled"},
        }

    def start(
        self, environments: list[dict[str, str]] | None = None, devices: int = 1, **own: object
    ) -> list[subprocess.Popen[str]]:
        """The processes of train.py, one or as many as there are environments."""
        named = {f"--{name.replace('_', '-')}": value for name, value in own.items()}
        words = [str(word) for pair in (self._options | named).items() for word in pair]
        shared = {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # XLA complains of a compilation that a busy machine makes slow.
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        environments = [shared | each for each in environments or [{}]]
        command = [ROOT / "train.py", *words]
        return start(command, len(environments), environments=environments)

    def rows(self) -> list[dict[str, float]]:
        """The rows that metrics.jsonl has at the moment."""
        path = self.output / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def losses(self) -> list[tuple[int, float, float]]:
        """Step, loss and gradient norm of each step."""
        rows = [row for row in self.rows() if "loss" in row]
        return [(int(row["step"]), row["loss"], row["grad_norm"]) for row in rows]

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that have their name."""
        paths = (self.output / "checkpoints").glob("*")
        return sorted(int(path.name) for path in paths if path.name.isdecimal())

    def unfinished(self) -> list[Path]:
        """Checkpoints that are being written."""
        return list((self.output / "checkpoints").glob("*-tmp"))


def wait_for(event: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until the event; a process that ends before fails the test."""
    end = time.monotonic() + SECONDS
    while not event():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.001)


def stop_when(event: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Stops the process at a moment when the event is so, which it then stays."""
    while True:
        wait_for(event, process)
        process.send_signal(signal.SIGSTOP)
        # Not before all of its threads stand still; WNOWAIT leaves its end to be waited for.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if event():
            return
        process.send_signal(signal.SIGCONT)
