"""What the TPU compiler made of the planted programs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neox_eqx.planning.program import Program, read_program

# Compiling for a TPU needs none, and the library would look for one.
WITHOUT_A_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
}


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """Gives the program of a function in `planted.py` by its name."""
    folder = tmp_path_factory.mktemp("planted")
    script = Path(__file__).with_name("planted.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=os.environ | WITHOUT_A_TPU,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return lambda name: read_program((folder / f"{name}.hlo").read_text("utf-8"))
