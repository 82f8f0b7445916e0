"""scripts/measure_accelerator.py, rehearsed where there is no accelerator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.one_device import one_device

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_accelerator.py"


@pytest.mark.slow
def test_all_figures_are_measured_and_written(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--rehearse", "--json", tmp_path / "out.json"]
    ended = subprocess.run(command, capture_output=True, text=True, env=one_device())
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert [name for name, figure in figures.items() if "failed" in figure] == []
    assert report["left_out"] == [] and report["machine"]["platform"] == "cpu"
    assert figures["tokens"]["equal_to_cpu"] == 1
    forms = [name.split(", ")[2:] for name in figures if name.startswith("pythia-14m, 2 rows")]
    peers = [["transformers"], ["transformers", "static"]]
    assert forms == [["16 bits"], ["int8"], ["int4"], *peers]
    assert 0 < figures["training"]["share_of_matrix_rate"] < 1


def test_time_that_is_up_leaves_figures_out_and_names_them(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--seconds", "0", "--json", tmp_path / "out.json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["figures"] == []
    assert report["left_out"][:2] == ["limits", "tokens"] and len(report["left_out"]) > 40


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--json", tmp_path / "absent" / "out.json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "no such directory to write to" in ended.stderr
