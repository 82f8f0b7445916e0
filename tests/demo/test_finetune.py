"""The demonstration of fine-tuning, for a few steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def finetune(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "demo/finetune.py", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def questions(path: Path) -> list[str]:
    return [json.loads(line)["question"] for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_problems_are_learnt_that_are_not_those_it_is_examined_on(tmp_path: Path) -> None:
    # So many of the few thousand weeks problems would have some of those of the exam among them.
    many = "--kinds weeks --problems 3000 --held-out 4".split()
    ended = finetune(
        "--output", tmp_path / "demo", *many, *"--steps 3 --batch-size 4 --lora-rank 2".split()
    )
    assert ended.returncode == 0, ended.stderr
    learnt = questions(tmp_path / "demo" / "train.jsonl")
    examined = questions(tmp_path / "demo" / "held_out.jsonl")
    assert (len(learnt), len(set(examined))) == (3000, 4)
    assert not set(learnt) & set(examined)
    # Before, it solves not one problem of this kind.
    last = ended.stdout.splitlines()[-1]
    assert re.match(r"exact match on 4 held-out problems: 0\.0% before, \d+\.\d% after 3 ", last)
    assert (tmp_path / "demo" / "run" / "adapter").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kinds", "riddle"), "riddle"),
        (("--held-out", "501"), "held_out"),
        (("--problems", "0"), "problems"),
        (("--lora-rank", "-1"), "lora_rank"),
        (("--output", "train.py"), "train.py"),
    ],
)
def test_wrong_options_end_in_one_line_and_status_2(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    ended = finetune("--output", tmp_path / "demo", *options)
    assert ended.returncode == 2
    assert message in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "demo").exists()
