"""Several processes act as one program: one output, one error, one end."""

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from neox_eqx import DEMO_MODEL
from tests.sharding.processes import ROOT, finish, finish_by_force, podrun_environments, start

GENERATE = ROOT / "generate.py"
STARTING = 20  # seconds until processes have joined, on a busy machine
# What gloo's threads say while processes connect, in pieces that stand in each other's lines, and
# before and behind what is ours.
NOT_OURS = r"(?:(?!generate\.py: |neox_eqx\.harness: ).)*"
CHATTER = re.compile(rf"{NOT_OURS}(?:\[Gloo\]|peer ranks){NOT_OURS}\n?|^\n", re.MULTILINE)


@pytest.fixture(scope="module")
def alone() -> str:
    """What one process prints for the demo's questions."""
    return subprocess.check_output([sys.executable, GENERATE, "--no-stream"], text=True, cwd=ROOT)


@pytest.mark.slow  # four hosts do so in tests/podrun
def test_four_processes_print_once_what_one_prints(alone: str) -> None:
    ended = finish(start([GENERATE, "--mesh", "data=2,model=4"], 4))
    assert [one.status for one in ended] == [0] * 4, ended
    assert [one.out for one in ended] == [alone, "", "", ""]
    assert "####" in alone


def test_the_output_file_is_written_once_with_the_samples_of_one_process(tmp_path: Path) -> None:
    ask = ["--prompt", "Tom has 3", "Anna", "--temperature", "1", "--num-samples", "2"]
    subprocess.run([sys.executable, GENERATE, *ask, "--output", tmp_path / "alone.jsonl"])
    directories = [tmp_path / str(number) for number in range(2)]
    for directory in directories:
        directory.mkdir()
    command = [GENERATE, *ask, "--output", "out.jsonl", "--mesh", "model=2"]
    ended = finish(start(command, 2, directories))
    assert [(one.status, one.out) for one in ended] == [(0, "")] * 2, ended
    assert not list(directories[1].iterdir())
    rows, expected = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (directories[0] / "out.jsonl", tmp_path / "alone.jsonl")
    )
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in expected]


@pytest.mark.slow
def test_a_row_that_fails_is_told_once_and_the_others_are_written(tmp_path: Path) -> None:
    """It is on the devices of one process, and all agree about it."""
    model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    (token,) = Tokenizer.from_file(str(model / "tokenizer.json")).encode("Z").ids
    tensors["gpt_neox.embed_in.weight"][token] = np.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    output = tmp_path / "out.jsonl"
    ask = ["--model", model, "--prompt", "Tom has 3", "Anna", "Z", "Joe", "--output", output]
    ended = finish(start([GENERATE, *ask, "--mesh", "data=4,model=1"], 2))
    assert [(one.status, one.out) for one in ended] == [(2, "")] * 2, ended
    told = [CHATTER.sub("", one.err) for one in ended]
    assert told[0].startswith("generate.py: error: 1 of 4 completions failed, the first that of ")
    assert (told[0].count("\n"), told[1]) == (1, "")
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["finish_reason"] == "error" for row in rows] == [False, False, True, False]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("prompts.txt absent", "(process 1): prompts.txt: cannot be read: "),
        ("prompts.txt other", "what to complete on "),
        ("model absent", "(process 1): ./model: no such directory"),
        ("config.json other", "its configuration or tensors, on "),
        ("weights other", "its configuration or tensors, on "),
        ("tokenizer.json other", "its tokenizer or generation_config.json, on "),
        ("generation_config.json other", "its tokenizer or generation_config.json, on "),
        ("tensors cut", "(process 1): "),
        ("template absent", "(process 1): model: has no chat template; give --template NAME"),
    ],
)
def test_what_is_wrong_on_one_host_is_said_once_and_ends_all(
    tmp_path: Path, broken: str, message: str
) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    for directory in directories:
        directory.mkdir()
        shutil.copytree(DEMO_MODEL, directory / "model")
        (directory / "prompts.txt").write_text("Tom has 3\n")
    there = directories[1]
    if broken == "prompts.txt absent":
        (there / "prompts.txt").unlink()
    elif broken == "prompts.txt other":
        (there / "prompts.txt").write_text("Tom has 4\n")
    elif broken == "model absent":
        shutil.rmtree(there / "model")
    elif broken == "config.json other":
        path = there / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu"}))
    elif broken == "generation_config.json other":
        (there / "model" / "generation_config.json").write_text('{"max_new_tokens": 7}')
    elif broken == "tokenizer.json other":
        path = there / "model" / "tokenizer.json"
        fields = json.loads(path.read_text("utf-8"))
        vocabulary = fields["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
        path.write_text(json.dumps(fields), "utf-8")
    elif broken == "template absent":
        template = "{{ messages[-1].content }}"
        (directories[0] / "model" / "chat_template.jinja").write_text(template)
    else:
        weights = there / "model" / "model.safetensors"
        data = weights.read_bytes()
        whole = data[: len(data) // 2].ljust(len(data), b"\0")
        weights.write_bytes(whole if broken == "weights other" else data[:-100])
    command = [GENERATE, "--model", "./model", "--prompt-file", "prompts.txt"]
    command += ["--system", "Be brief."] if broken == "template absent" else []
    ended = finish(start(command, 2, directories), within=30)
    said = [CHATTER.sub("", one.err) for one in ended]
    assert said[0].startswith("generate.py: error: ") and message in said[0]
    assert said[0].count("\n") == 1
    if "other" in broken:
        assert re.search(r" on \S+ \(process 1\) differs from that on \S+ \(process 0\);", said[0])
    assert ended[0].status == 2 and ended[1].status != 0
    assert [one.out for one in ended] == ["", ""]
    assert "Traceback" not in said[1]


FAULTY = """
import os, signal, sys, time
import jax
from jax.experimental import multihost_utils

from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import on_every_host
from tests.sharding.options import Options


def main(options):
    multihost_utils.sync_global_devices("begun")
    print("begun", file=sys.stderr, flush=True)
    for step in range(10_000):
        if jax.process_index() == 1 and step == 20:
            if options.fault == "raise":
                raise RuntimeError("a fault of this host")
            if options.fault == "read":
                open("/absent")
            if options.fault == "exit":
                sys.exit(3)
            if options.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if options.fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if options.fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
        multihost_utils.sync_global_devices(f"step {step}")
        time.sleep(0.01)


run(on_every_host(main), Options)
"""


@pytest.mark.parametrize(
    ("fault", "status", "within"),
    [
        ("raise", 1, 10),
        ("read", 1, 10),
        ("exit", 3, 10),
        ("kill", -signal.SIGKILL, 10),
        ("term", -signal.SIGTERM, 10),
    ],
)
def test_a_process_that_fails_ends_the_others(
    tmp_path: Path, fault: str, status: int, within: float
) -> None:
    program = tmp_path / "faulty.py"
    program.write_text(textwrap.dedent(FAULTY))
    processes = start([program, "--fault", fault], 3)
    ended = finish(processes, within=STARTING + within)
    assert ended[1].status == status, ended[1]
    assert all(one.status != 0 for one in ended)
    assert max(one.seconds for one in ended) - ended[1].seconds < within
    assert ("a fault of this host" in ended[1].err) == (fault == "raise")


def test_a_process_that_stops_answering_ends_the_others(tmp_path: Path) -> None:
    program = tmp_path / "faulty.py"
    program.write_text(textwrap.dedent(FAULTY))
    processes = start([program, "--fault", "stop"], 3)
    try:
        ended = finish([processes[0], processes[2]], within=STARTING + 30)
        assert all(one.status != 0 for one in ended)
    finally:
        finish_by_force(processes[1:2])


MISTAKEN = """
import os, time
from jax.experimental import multihost_utils

from neox_eqx import InputError
from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import is_first, on_every_host
from tests.sharding.options import Options


def main(options):
    raise InputError("a mistake", is_reporter=is_first())


def meet(what):
    meet_at_once(what)
    met.append(time.monotonic())


def leave(status):
    print(time.monotonic() - met[-1], flush=True)
    leave_at_once(status)


met = []
meet_at_once, multihost_utils.sync_global_devices = multihost_utils.sync_global_devices, meet
leave_at_once, os._exit = os._exit, leave
run(on_every_host(main), Options)
"""


def test_after_a_mistake_the_first_process_waits_until_the_others_are_gone(tmp_path: Path) -> None:
    """JAX aborts those that are still there when the first one ends."""
    program = tmp_path / "mistaken.py"
    program.write_text(MISTAKEN)
    first, other = finish(start([program], 2))
    assert first.status == 2 and other.status != 0
    assert float(first.out) > 0.15, "seconds that it stays after all have met"
    assert CHATTER.sub("", first.err) == "mistaken.py: error: a mistake\n"
    assert "a mistake" not in other.err


PRINTING = """
import sys, time
from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import on_every_host
from tests.sharding.options import Options


def main(options):
    print("안녕")
    time.sleep(60)


run(on_every_host(main), Options)
"""


def test_what_the_first_process_prints_comes_at_once_and_in_any_locale(tmp_path: Path) -> None:
    program = tmp_path / "printing.py"
    program.write_text(PRINTING, "utf-8")
    ascii = [own | {"PYTHONIOENCODING": "ascii"} for own in podrun_environments(2)]
    processes = start([program], 2, environments=ascii)
    try:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == "??\n"
        assert processes[0].poll() is None
    finally:
        finish_by_force(processes)
