"""Command lines, each in a process of its own as a user runs it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = '''
import dataclasses
import gc
import time
from pathlib import Path
from typing import Literal

import tyro

from neox_eqx.command_line import run
from neox_eqx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    seed: int = 0
    """Of the random numbers."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the continuation of each prompt."""

    source: tyro.conf.Positional[str] = "demo"
    """What to read."""
    prompt: tuple[str, ...] = ()
    """Texts to continue."""
    output: Path | None = None
    """File to write."""
    max_new_tokens: int | None = None
    """Longest completion in tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the parameters."""
    early_stopping: Literal[True, False, "never"] = False
    """When a beam search ends."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = Sampling()
    stream: bool = True
    """Print the text as it comes."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError("--temperature is below 0; give 0 or more")


def main(options: Options) -> None:
    if options.source == "wrong":
        raise InputError("wrong: no such model;\\ngive another")
    if options.source == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    if options.source == "dropped":
        print("waiting", flush=True)
        gc.callbacks.append(lambda *_: time.sleep(5))
        gc.collect()
        gc.callbacks.clear()
        time.sleep(60)
    if options.source == "flood":
        for line in range(200_000):
            print(line)
    print(options)


run(main, Options)
'''


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "continue.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def call(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, program, *args], capture_output=True, text=True)


def test_options_reach_main_in_their_types(program: Path) -> None:
    ran = call(
        program,
        *("--prompt", "A", "B c", "--max-new-tokens", "3", "--temperature", "0", "--no-stream"),
        *("--dtype", "bfloat16", "--early-stopping", "never", "--output", "out.jsonl"),
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == (
        "Options(source='demo', prompt=('A', 'B c'), output=PosixPath('out.jsonl'), "
        "max_new_tokens=3, temperature=0.0, dtype='bfloat16', early_stopping='never', "
        "sampling=Sampling(seed=0), stream=False)\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--modle"], "there is no option --modle; continue.py --help lists the options"),
        (["--max-new-token", "3"], "there is no option --max-new-token; "
         "did you mean --max-new-tokens?"),
        (["--max-new-token=3"], "there is no option --max-new-token; "
         "did you mean --max-new-tokens?"),
        (["--seeds", "3"], "there is no option --seeds; did you mean --seed?"),
        (["--sampling", "3"], "there is no option --sampling; "
         "continue.py --help lists the options"),
        (["--prompt", "a", "--prompt=b"], "--prompt is given 2 times; "
         "give it once, with all its values"),
        (["demo", "more"], "'more' belongs to no option (continue.py --help lists them)"),
        (["--max-new-tokens", "x"], "--max-new-tokens: 'x' is not a whole number "
         "(continue.py --help explains each option)"),
        (["--max-new-tokens", "2.5"], "--max-new-tokens: '2.5' is not a whole number "
         "(continue.py --help explains each option)"),
        (["--temperature", "hot"], "--temperature: 'hot' is not a number "
         "(continue.py --help explains each option)"),
        (["--dtype", "f8"], "invalid choice 'f8' for argument '--dtype'. Expected one of "
         "('float32', 'bfloat16') (continue.py --help explains each option)"),
        (["--output"], "Missing value for argument '--output'. Expected 1 values "
         "(continue.py --help explains each option)"),
        (["--output", ""], "--output: an empty text is no path "
         "(continue.py --help explains each option)"),
        (["--temperature", "-1"], "--temperature is below 0; give 0 or more "
         "(continue.py --help explains each option)"),
        (["wrong"], "wrong: no such model; give another"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_one_line_and_status_2(
    program: Path, args: list[str], message: str
) -> None:
    ran = call(program, *args)
    assert ran.stderr == f"continue.py: error: {message}\n"
    assert ran.returncode == 2
    assert not ran.stdout


def test_help_has_a_line_for_each_option(program: Path) -> None:
    ran = call(program, "--help")
    assert ran.returncode == 0
    assert "Writes the continuation of each prompt." in ran.stdout
    for option, meaning in {
        "--prompt": "Texts to continue.",
        "--output PATH": "File to write. (default: unset)",
        "--max-new-tokens N": "Longest completion in tokens. (default: unset)",
        "--temperature X": "0 is greedy. (default: 1.0)",
        "--dtype {float32,bfloat16}": "Number format of the parameters. (default: unset)",
        "--early-stopping {True,False,never}": "When a beam search ends. (default: False)",
        "--stream, --no-stream": "Print the text as it comes. (default: True)",
    }.items():
        assert option in ran.stdout
        assert meaning in ran.stdout
    assert "None" not in ran.stdout


# What a callback of the garbage collector raises, and JAX has one, is dropped by Python.
@pytest.mark.parametrize("source", ["wait", "dropped"])
def test_interrupting_ends_quietly_with_130(program: Path, source: str) -> None:
    with subprocess.Popen(
        [sys.executable, program, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


def test_output_that_finds_no_room_is_answered_with_one_line(program: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, program]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    message = "continue.py: error: the output cannot be written: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (2, message)


def test_a_program_without_an_output_runs(program: Path) -> None:
    command = f'"{sys.executable}" "{program}" >&-'
    ran = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_letters_that_the_terminal_lacks_are_replaced(program: Path) -> None:
    ran = subprocess.run(
        [sys.executable, program, "--prompt", "안녕"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "prompt=('??',)" in ran.stdout


@pytest.mark.parametrize("args", [["flood"], ["--help"]])
def test_a_reader_that_leaves_ends_the_program_quietly(program: Path, args: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, program, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=30) == 141
    assert errors == ""
