"""Hosts that say other things than an agent does, or more: a line each, and nothing without bound.

A program in ssh's place starts what it is told to on this machine, and does something before.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.podrun.hosts import PODRUN

HELLO = b"\0podrun\0"
READY, STDOUT, END = 1, 3, 5
FACTS = b'{"port": 1, "address": "a"}'


def run(
    folder: Path, before: str, *arguments: str, limits: str = ":", hosts: str = "h0"
) -> subprocess.CompletedProcess:
    """podrun with hosts where the shell does something `before` it runs what comes by ssh."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir(exist_ok=True)
    ssh.write_text(f'#!/bin/bash\n{before}\nexec sh -c "${{@: -1}}"\n', "utf-8")
    ssh.chmod(0o755)
    words = [sys.executable, str(PODRUN), "--hosts", hosts, *(arguments or ["echo", "ran"])]
    environment = os.environ | {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "HOME": str(folder)}
    return subprocess.run(
        ["sh", "-c", f'ulimit -v 1000000; {limits}; exec "$@"', "sh", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=20,
    )


def expect_a_line(answer: subprocess.CompletedProcess, why: str) -> None:
    assert answer.returncode != 0
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("podrun: ") and why in line
    assert line.isprintable() and len(line) < 500


@pytest.mark.parametrize(
    "before",
    [
        "head -c 3000000 /dev/zero | tr '\\0' x",
        "yes welcome | head -c 3000000",
        "yes warning | head -c 30000000 >&2",
        "head -c 3000000 /dev/urandom",
    ],
)
def test_a_start_up_file_may_print_a_lot(before: str, tmp_path: Path) -> None:
    answer = run(tmp_path, before)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "h0| ran\n", "")


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("yes", "no agent: a start-up file of its shell (.bashrc) prints without end"),
        ("yes '\x1b[31mno' | tr -d '\\n' | head -c 3000000 >&2; exit 3", "no agent could start: "),
        ("printf '\\033[2J\\007\\r\\377no\\n' >&2; exit 255", "ssh could not connect: "),
        ("exit 3", "no agent could start: no reason given"),
    ],
)
def test_a_host_without_an_agent(before: str, why: str, tmp_path: Path) -> None:
    expect_a_line(run(tmp_path, before), why)


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BI", kind, len(payload) if length is None else length) + payload


@pytest.mark.parametrize(
    "words",
    [
        b"any text that another program prints meanwhile\n" * 9999,
        frame(STDOUT, b"x" * 1_000_000, length=2**32 - 1),
        frame(STDOUT, b"x" * 1_000_000, length=2**31),
        frame(99, b""),
        frame(READY, b"{"),
        frame(READY, b"\xff"),
        frame(READY, b"[]"),
        frame(READY, b"[" * 200_000),
        frame(READY, b'{"port": "x", "address": "\\u001b[31m"}'),
        frame(READY, b'{"port": ' + b"9" * 9999 + b', "address": "a"}'),
        frame(END, b'{"status": "x", "reason": 1}'),
        frame(END, b"null"),
        frame(READY, FACTS) + frame(END, b'"' * 99),
        frame(READY, FACTS) + frame(END, b'{"status": 256, "reason": "r"}'),
        frame(READY, FACTS) + frame(END, b'{"status": -256, "reason": "r"}'),
    ],
)
def test_words_that_are_no_agents(words: bytes, tmp_path: Path) -> None:
    tmp_path.joinpath("words").write_bytes(HELLO + words)
    answer = run(tmp_path, f"cat {tmp_path}/words; cat >/dev/null; exit 0")
    expect_a_line(answer, "h0: cannot be understood: ")


def test_a_check_of_a_host_that_speaks_nonsense(tmp_path: Path) -> None:
    tmp_path.joinpath("words").write_bytes(HELLO + frame(READY, FACTS))
    answer = run(tmp_path, f"cat {tmp_path}/words; cat >/dev/null; exit 0", "--check")
    expect_a_line(answer, "h0: cannot be understood: KeyError('check')")


def test_no_file_is_written_here_or_there(tmp_path: Path) -> None:
    """So that podrun runs where no directory for temporary files is left, or the disk is full."""
    answer = run(tmp_path, "", limits="ulimit -f 0; export TMPDIR=/none")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "h0| ran\n", "")


def test_a_check_of_programs_that_print_without_end(tmp_path: Path) -> None:
    """`python` and `git` of that host."""
    for name in ("python", "python3.8", "git"):
        path = tmp_path / "odd" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexec yes 'a '\n", "utf-8")
        path.chmod(0o755)
    answer = run(tmp_path, f"export PATH={tmp_path}/odd:$PATH", "--check")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 2
    assert len(answer.stdout) < 2000


@pytest.mark.parametrize("number", [15, 35])
def test_a_signal_that_python_has_no_name_for(number: int, tmp_path: Path) -> None:
    answer = run(tmp_path, "", "sh", "-c", f"kill -{number} $$")
    assert answer.returncode == 128 + number
    expect_a_line(answer, f"h0: signal {'SIGTERM' if number == 15 else number}")


def test_more_hosts_than_files_can_be_open(tmp_path: Path) -> None:
    names = ",".join(f"h{i}" for i in range(16))
    answer = run(tmp_path, "", hosts=names, limits="ulimit -n 64")
    expect_a_line(answer, "16 hosts need 176 open files, and ulimit -n is 64")
    answer = run(tmp_path, "", hosts=names, limits="ulimit -S -n 32")
    assert answer.returncode == 0
    assert sorted(answer.stdout.splitlines()) == sorted(f"{n}| ran" for n in names.split(","))


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    answer = run(tmp_path, "", limits="exec >/dev/full")
    expect_a_line(answer, "cannot print: No space left on device")


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-"])
def test_closed_files_become_no_connection(tmp_path: Path, closed: str) -> None:
    answer = run(tmp_path, "", "sh", "-c", "echo out; echo error >&2", limits=f"exec {closed}")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr == ("" if "2>" in closed else "h0| error\n")
