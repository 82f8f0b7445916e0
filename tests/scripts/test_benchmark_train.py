"""The benchmark of training: both systems take the same steps, and its products are all of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = "--preset pythia-14m --layers 2 --vocab-size 512 --batch-size 2 --length 32".split()


def benchmark(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/benchmark_train.py", *TINY, *options]
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        command, cwd=ROOT, env=inherited | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_both_systems_lose_the_same_and_every_figure_is_there(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    ended = benchmark("--rounds", "2", "--steps", "3", "--profile", "--json", path)
    assert (ended.returncode, ended.stderr) == (0, "")
    report = json.loads(path.read_text())
    assert [len(losses) for losses in report["losses"].values()] == [9, 9]
    assert all(losses[-1] != losses[0] for losses in report["losses"].values())
    # Measured 8e-8.
    assert report["loss_difference"] < 1e-6
    ours, theirs = report["step_seconds"].values()
    assert report["speed_ratio"] == pytest.approx(theirs / ours)
    ours, theirs = report["peak_bytes"].values()
    assert report["memory_ratio"] == pytest.approx(ours / theirs)
    # More than any model of this size, and less than both libraries together.
    assert all(50e6 < peak < 2e9 for peak in report["peak_bytes"].values())
    assert 0 < report["busy"]["matrix products"] < sum(report["busy"].values())
    assert re.search(r"^times faster than PyTorch: \d", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--length", "1"), "--length"),
        (("--length", "4096"), "2048"),
        (("--preset", "pythia-7m"), "pythia-7m"),
        (("--json", "no/such/place.json"), "no/such/place.json"),
    ],
)
def test_wrong_options_end_in_one_line_and_status_2(options: tuple[str, ...], message: str) -> None:
    ended = benchmark(*options)
    assert ended.returncode == 2
    assert message in ended.stderr and ended.stderr.count("\n") == 1
