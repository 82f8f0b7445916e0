"""Command lines of a command, many in one process: starting one takes seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MANY = """
import contextlib, importlib, io, json, sys
from neox_eqx.command_line import run

name = sys.argv[1]
command = importlib.import_module(f"neox_eqx.cli.{name}")
answers = []
for args in json.load(sys.stdin):
    sys.argv[0] = f"neox-eqx {name}"
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(command.main, command.Options, args)
        except SystemExit as exit:
            status = exit.code
    answers.append((status, out.getvalue(), err.getvalue()))
json.dump(answers, sys.stdout)
"""


def many(
    name: str, commands: Sequence[Sequence[Any]], directory: Path = ROOT
) -> list[tuple[int, str, str]]:
    """Status, output and errors of a command with each list of arguments, run in `directory`."""
    ran = subprocess.run(
        [sys.executable, "-c", MANY, name],
        input=json.dumps([[str(arg) for arg in args] for args in commands]),
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    return [tuple(answer) for answer in json.loads(ran.stdout)]
