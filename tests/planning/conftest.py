"""What the TPU compiler made of the planted programs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neox_eqx.planning.attempts import environment
from neox_eqx.planning.program import Program, read_program


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """Gives the program of a function in `planted_*.py` by its name."""
    folder = tmp_path_factory.mktemp("planted")
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.compile_planted", str(folder)],
        cwd=Path(__file__).parents[2],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return lambda name: read_program((folder / f"{name}.hlo").read_text("utf-8"))
