"""generate.py on a pod of four hosts: what one machine prints, once, and one reason if it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from neox_eqx import DEMO_MODEL, PRESETS, GPTNeoX, save
from tests.one_device import one_device
from tests.podrun.hosts import Hosts
from tests.podrun.launch import Launch, wait_until

ROOT = Path(__file__).parents[2]
VENV = str(Path(sys.executable).parent.parent)
# Two devices on each host: eight in all.
ON_CPU = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "XLA_FLAGS": one_device()["XLA_FLAGS"],
}
MESH = ("--mesh", "data=2,model=4")
START_SECONDS = 90  # until four processes share two cores' time to import, load and compile


def one_machine(*arguments: str | Path) -> str:
    command = [sys.executable, "generate.py", *arguments]
    return subprocess.check_output(command, cwd=ROOT, text=True, env={**os.environ, **ON_CPU})


def generate(pod: Hosts, *arguments: str) -> Launch:
    command = ("python", "generate.py", *MESH, *arguments)
    return pod.launch("-w", *command, directory=ROOT, VIRTUAL_ENV=VENV, **ON_CPU)


def test_four_hosts_print_once_what_one_machine_prints(pod: Hosts) -> None:
    launch = generate(pod)
    assert launch.end(START_SECONDS) == 0, launch.stderr
    assert launch.stdout == "".join(f"h0| {line}\n" for line in one_machine().splitlines())


@pytest.mark.slow
def test_four_hosts_write_the_tokens_of_one_machine_for_a_larger_model(
    pod: Hosts, tmp_path: Path
) -> None:
    config = PRESETS["pythia-70m"]
    save(GPTNeoX.init(config, key=jax.random.key(0)), tmp_path / "model", companions=())
    shutil.copy(DEMO_MODEL / "tokenizer.json", tmp_path / "model")
    ask = ["--model", str(tmp_path / "model"), "--prompt", "Tom has 3", "Anna", "There are 4"]
    one_machine(*ask, "--output", str(tmp_path / "alone.jsonl"))
    launch = generate(pod, *ask, "--output", str(tmp_path / "pod.jsonl"))
    assert launch.end(START_SECONDS) == 0, launch.stderr
    alone, together = (
        [json.loads(line)["tokens"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("alone.jsonl", "pod.jsonl")
    )
    assert alone == together and len(alone) == 3


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Prompts that keep the pod busy for minutes."""
    path = tmp_path / "prompts.txt"
    path.write_text("Tom has 3 boxes\n" * 5000)
    return path


def rank(pod: Hosts, number: int) -> int:
    """The process of generate.py on a host."""
    for pid in pod.commands():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"PODRUN_PROCESS_ID={number}".encode() in environment:
            return pid
    raise AssertionError(f"no process {number}")


# By its heartbeat JAX itself notices a process that is stopped, but after 20 s, and it ends the
# others: then podrun would name one of these. Of short commands test_faults.py holds all of these,
# and sharding/test_processes.py that of processes which decode the others end.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason", "within"),
    [
        (signal.SIGKILL, "signal SIGKILL", 5),
        (signal.SIGTERM, "signal SIGTERM", 5),
        (signal.SIGSTOP, r"stopped \(SIGSTOP\) for 5 s, process \d+", 15),
    ],
)
def test_a_process_that_fails_while_decoding_ends_all(
    pod: Hosts, endless: Path, fault: signal.Signals, reason: str, within: float
) -> None:
    launch = generate(pod, "--prompt-file", str(endless), "--temperature", "1")
    wait_until(lambda: launch.stdout.count("\n") > 4, START_SECONDS, lambda: launch.stderr)
    os.kill(rank(pod, 2), fault)
    assert launch.end(within) == 128 + fault
    (said,) = [line for line in launch.stderr.splitlines() if line.startswith("podrun: ")]
    assert re.fullmatch(f"podrun: h2: {reason}", said)
    pod.expect_nothing_left(2)


@pytest.mark.slow
def test_a_host_that_is_cut_off_while_decoding_is_named(pod: Hosts, endless: Path) -> None:
    launch = generate(pod, "--prompt-file", str(endless))
    wait_until(lambda: launch.stdout.count("\n") > 4, START_SECONDS, lambda: launch.stderr)
    with pod.cut("h3"):
        assert launch.end(20) == 255
        assert launch.stderr.splitlines()[-1].startswith("podrun: h3: ")
        wait_until(lambda: not pod.processes(), 25, lambda: f"still there: {pod.processes()}")


@pytest.mark.slow
def test_ctrl_c_while_decoding_ends_all(pod: Hosts, endless: Path) -> None:
    launch = generate(pod, "--prompt-file", str(endless))
    wait_until(lambda: launch.stdout.count("\n") > 4, START_SECONDS, lambda: launch.stderr)
    os.killpg(launch.process.pid, signal.SIGINT)
    assert launch.end(12) == 130
    assert "Traceback" not in launch.stderr
    pod.expect_nothing_left(2)


def test_a_mistake_is_said_once(pod: Hosts) -> None:
    launch = generate(pod, "--model", "/absent", "--prompt", "a")
    assert launch.end(START_SECONDS) == 2
    said = [line for line in launch.stderr.splitlines() if "error: " in line]
    assert len(said) == 1 and said[0].startswith("h0| generate.py: error: h0 (process 0): /abs")
