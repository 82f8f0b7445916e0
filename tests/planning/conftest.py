"""What the TPU compiler made of the planted programs."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neox_eqx.planning.attempts import environment
from neox_eqx.planning.program import Program, read_program


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Program]]:
    """Compiles the functions of a module here, and gives their programs by name."""

    def compile_all(module: str) -> dict[str, Program]:
        own = tmp_path_factory.getbasetemp()
        # Above their own folders the workers of one run have one in common: one of them compiles.
        folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / module
        with open(f"{folder}.lock", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not folder.exists():
                _compile(module, folder)
        return {path.stem: read_program(path.read_text("utf-8")) for path in folder.iterdir()}

    return compile_all


def _compile(module: str, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.compile_planted", module, str(unfinished)],
        cwd=Path(__file__).parents[2],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    unfinished.rename(folder)
