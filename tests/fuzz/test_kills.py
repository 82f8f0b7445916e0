"""Programs that are killed and started again come to what they would have come to."""

import subprocess
import sys

import pytest

from tests.fuzz.kill_child import ROOT


def killed(*options: str) -> str:
    command = [sys.executable, "-m", "tests.fuzz.kills", "--seed", "5", *options]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_some_kills_lose_nothing_and_leave_nothing() -> None:
    assert "0 finds" in killed("--kills", "4", "--cases", "score")


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_and_leave_nothing() -> None:
    assert "0 finds" in killed("--kills", "200")
