"""NEON, compiled for ARM and run in an emulator, has the bits of this machine's own kernels."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from neox_eqx.native import build, library
from tests.native.test_attention import KINDS, past_case
from tests.native.weights import FORMS, normal, weight

COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SHAPES = [(1, 16, 32), (3, 48, 96), (7, 80, 320)]


def compiled(name: str, folder: Path) -> Path:
    """A program of this folder with the library's own sources, for ARM."""
    if not (COMPILER and EMULATOR):
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    path = folder / name
    flags = [flag for flag in build.FLAGS if flag not in ("-fPIC", "-w")]
    sources = [source for source in build.SOURCE.glob("*.cc") if "handler" not in source.name]
    own = Path(__file__).parent / f"{name}.cc"
    include = ["-I", str(build.SOURCE)]
    command = [COMPILER, *flags, "-Wall", "-Werror", "-static", *include, *sources, own, "-o", path]
    subprocess.run(command, check=True)
    return path


def output(program: Path, arguments: Sequence[object], arrays: Sequence[np.ndarray]) -> np.ndarray:
    ran = subprocess.run(
        [str(EMULATOR), program, *map(str, arguments)],
        input=b"".join(array.tobytes() for array in arrays),
        capture_output=True,
        check=True,
    )
    return np.frombuffer(ran.stdout, np.float32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("one_product", tmp_path_factory.mktemp("neon"))


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
        arguments = (name, FORMS.index(form), rows, out, size)
        y = output(program, arguments, (x, arrays[0], scale)).reshape(rows, out)
        np.testing.assert_array_equal(y, np.asarray(own(x)))


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("one_attention", tmp_path_factory.mktemp("neon"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["neon", "plain"])
def test_it_attends_with_the_bits_of_this_machine(
    instruction_sets: list[str], attention: Path, kind: str, name: str
) -> None:
    library.use(instruction_sets[0] if name == "neon" else "plain")
    own = past_case(kind)
    (past, new), (seen,) = own.segments, own.visible.past
    slots, (rows, heads, length, size) = past.for_library(own.query.shape[-1]), own.query.shape
    none = np.zeros(slots[0].shape[:3], np.float32)
    scales = slots[2:] or (none, none)
    arguments = (name, KINDS.index(kind), len(slots[0]), seen.shape[1], rows, heads, length, size)
    arrays = (own.query, own.visible.ids, *slots[:2], *scales, seen, new.key, new.value)
    y = output(attention, arguments, [np.asarray(array) for array in arrays])
    np.testing.assert_array_equal(y.reshape(own.query.shape), own.output())
