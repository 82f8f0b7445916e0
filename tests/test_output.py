"""Where nothing can be written: commands end in one line, or in the status alone."""

import os
import subprocess
import sys

import pytest

from neox_eqx.output import written

NO_ROOM = "the output cannot be written: No space left on device"


def ran(command: str) -> tuple[int, str, str]:
    """Status, output and errors of a line of the shell, in which `neox-eqx` is this Python's."""
    line = command.replace("neox-eqx", f'"{sys.executable}" -m neox_eqx')
    process = subprocess.run(line, shell=True, capture_output=True, text=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_an_output_without_room_is_answered_with_one_line(option: str) -> None:
    assert ran(f"neox-eqx {option} >/dev/full") == (2, "", f"neox-eqx: error: {NO_ROOM}\n")


@pytest.mark.parametrize(
    "command",
    [
        "neox-eqx nonsense 2>/dev/full",
        "neox-eqx nonsense 2>&-",
        "neox-eqx --help >/dev/full 2>&1",
        "neox-eqx score --nonsense 2>/dev/full",
        "neox-eqx score --nonsense >&- 2>&-",
    ],
)
def test_where_no_complaint_can_be_written_the_status_says_it(command: str) -> None:
    assert ran(command) == (2, "", "")


def test_a_reader_of_help_may_leave() -> None:
    reader, output = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "neox_eqx", "--help"]
    process = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
    os.close(output)
    assert (process.returncode, process.stderr) == (141, "")


def test_an_output_that_a_reader_has_left_ends_a_command_before_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is printed lies in a buffer until then."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patched, open(writer, "w") as out:
        patched.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as ended, written("neox-eqx"):
            print("a line")
    assert ended.value.code == 141


def test_an_output_without_room_ends_a_command_before_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched, open("/dev/full", "w") as out:
        patched.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as ended, written("neox-eqx"):
            print("a line")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"neox-eqx: error: {NO_ROOM}\n"
