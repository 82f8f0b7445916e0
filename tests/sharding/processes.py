"""Several processes of one program on this machine, joined as podrun joins those of a pod."""

import dataclasses
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.one_device import one_device

ROOT = Path(__file__).parents[2]
DEVICES = 2


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one process ended, and when, in seconds after the start of all."""

    status: int
    out: str
    err: str
    seconds: float


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def podrun_environments(count: int) -> list[dict[str, str]]:
    """What podrun sets for each of so many processes."""
    coordinator = f"127.0.0.1:{free_port()}"
    shared = {
        "JAX_COORDINATOR_BIND_ADDRESS": coordinator,
        "PODRUN_COORDINATOR": coordinator,
        "PODRUN_NUM_PROCESSES": str(count),
    }
    return [{**shared, "PODRUN_PROCESS_ID": str(number)} for number in range(count)]


def start(
    command: Sequence[str | Path],
    count: int,
    directories: Sequence[Path] | None = None,
    environments: Sequence[dict[str, str]] | None = None,
) -> list[subprocess.Popen[str]]:
    """`count` processes of a Python program with two devices each, in a directory each."""
    environments = environments or podrun_environments(count)
    shared = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "PYTHONFAULTHANDLER": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directories[number] if directories else None,
            env={**one_device(), **shared, **environments[number]},
        )
        for number in range(count)
    ]


def finish(processes: Sequence[subprocess.Popen[str]], within: float = 120) -> list[Ended]:
    """Waits for all; the first that has not ended in time fails the test, and all are killed."""
    begun = time.monotonic()
    ended: list[Ended] = []
    try:
        for process in processes:
            left = max(0.1, within - (time.monotonic() - begun))
            out, err = process.communicate(timeout=left)
            ended.append(Ended(process.returncode, out, err, time.monotonic() - begun))
    except subprocess.TimeoutExpired:
        hung = processes[len(ended)]
        hung.send_signal(signal.SIGABRT)  # it prints where each of its threads stands
        _, err = hung.communicate()
        raise AssertionError(f"process {len(ended)} hung:\n{err}\nthose before: {ended}") from None
    finally:
        finish_by_force(processes)
    return ended


def finish_by_force(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()
