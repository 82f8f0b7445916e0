"""NEON, compiled for ARM and run in an emulator, has the bits of this machine's own products."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from neox_eqx.native import build, library
from tests.native.weights import FORMS, normal, weight

COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SHAPES = [(1, 16, 32), (3, 48, 96), (7, 80, 320)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (COMPILER and EMULATOR):
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    path = tmp_path_factory.mktemp("neon") / "one_product"
    flags = [flag for flag in build.FLAGS if flag not in ("-fPIC", "-w")]
    sources = [source for source in build.SOURCE.glob("*.cc") if source.name != "handler.cc"]
    own = Path(__file__).parent / "one_product.cc"
    include = ["-I", str(build.SOURCE)]
    command = [COMPILER, *flags, "-Wall", "-Werror", "-static", *include, *sources, own, "-o", path]
    subprocess.run(command, check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["neon", "plain"])
def test_it_has_the_bits_of_this_machine(
    instruction_sets: list[str], program: Path, form: str, name: str
) -> None:
    library.use(instruction_sets[0] if name == "neon" else "plain")
    for rows, out, size in (*SHAPES, *([] if "tiles" in form else [(5, 9, 37)])):
        own, x = weight(form, out, size), normal(rows, size)
        x[rows // 2, size // 2] = np.nan if rows > 1 else 0
        arrays = [np.asarray(array) for array in own.arrays]
        scale = arrays[1] if len(arrays) > 1 else np.zeros(out, np.float32)
        sizes = [str(number) for number in (FORMS.index(form), rows, out, size)]
        ran = subprocess.run(
            [str(EMULATOR), program, name, *sizes],
            input=x.tobytes() + arrays[0].tobytes() + scale.tobytes(),
            capture_output=True,
            check=True,
        )
        y = np.frombuffer(ran.stdout, np.float32).reshape(rows, out)
        np.testing.assert_array_equal(y, np.asarray(own(x)))
