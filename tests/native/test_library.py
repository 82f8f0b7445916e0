"""The switch, what is said on stderr, and processes that must all have the library or none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharding import processes

ROOT = Path(__file__).parents[2]
PRODUCT = """
import sys
import jax, jax.numpy as jnp
from neox_eqx.model.linear import project
from neox_eqx.native import library

x, weight = jnp.arange(64.0).reshape(2, 32), jnp.ones((16, 32), jnp.bfloat16)
y = jax.jit(project)(x, weight)
assert (y == x.sum(-1, keepdims=True)).all()
jax.jit(project)(x[:1], weight)
print(library.instruction_set())
"""
ON_ALL = """
import numpy as np
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from neox_eqx.model.int8 import project_int8
from neox_eqx.native import library
from neox_eqx.sharding.distributed import on_every_host

def main(options):
    mesh = Mesh(np.array(jax.devices()), "model")
    put = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))
    weight = np.random.default_rng(0).integers(-127, 128, (64, 128)).astype(np.int8)
    x, scale = np.ones((3, 128), np.float32), np.full(64, 0.5, np.float32)
    whole = jax.jit(project_int8, out_shardings=NamedSharding(mesh, P()))
    for where in (("model",), (None, "model")):
        y = whole(put(x), put(weight, *where), put(scale))
        np.testing.assert_allclose(np.asarray(y.addressable_data(0)), x @ weight.T * 0.5, rtol=1e-5)
    import sys
    print("used:", library.instruction_set(), file=sys.stderr)

on_every_host(main)(None)
"""


def run(directory: Path = ROOT, **environment: str) -> tuple[str, str]:
    ran = subprocess.run(
        [sys.executable, "-c", PRODUCT],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def test_it_can_be_turned_off() -> None:
    assert run(NEOX_EQX_NATIVE="0") == ("None\n", "")


def test_the_variable_names_an_instruction_set(instruction_sets: list[str]) -> None:
    assert run(NEOX_EQX_NATIVE="plain") == ("plain\n", "")


def test_one_that_the_machine_has_not_is_told_and_the_fastest_is_used(
    instruction_sets: list[str],
) -> None:
    line = (
        f"neox_eqx: NEOX_EQX_NATIVE='neon9' is not for this machine; {instruction_sets[0]} is used"
    )
    assert run(NEOX_EQX_NATIVE="neon9") == (f"{instruction_sets[0]}\n", line + "\n")


def test_without_a_compiler_all_works_and_one_line_says_so(tmp_path: Path) -> None:
    unbuilt = shutil.ignore_patterns("built", "demo_model", "__pycache__")
    shutil.copytree(ROOT / "neox_eqx", tmp_path / "neox_eqx", ignore=unbuilt)
    out, err = run(tmp_path, XDG_CACHE_HOME=str(tmp_path), PATH="", NEOX_EQX_NATIVE="", CXX="")
    assert out == "None\n"
    assert err == (
        "neox_eqx: products of 16 bits and fewer, and long prompts, are slower without the C++ "
        "library: there is no C++ compiler; install g++ or clang++, or name one in CXX\n"
    )


def used(environments: list[dict[str, str]]) -> list[str]:
    started = processes.start(["-c", ON_ALL], 2, environments=environments)
    ended = processes.finish(started)
    assert [one.status for one in ended] == [0, 0], ended
    return [line for one in ended for line in one.err.splitlines() if line.startswith("used:")]


def test_processes_compute_together_on_a_mesh(instruction_sets: list[str]) -> None:
    name = instruction_sets[0]
    assert used(processes.podrun_environments(2)) == [f"used: {name}"] * 2


@pytest.mark.slow
def test_no_process_uses_what_another_lacks(instruction_sets: list[str]) -> None:
    environments = processes.podrun_environments(2)
    environments[1]["NEOX_EQX_NATIVE"] = "0"
    assert used(environments) == ["used: None"] * 2


@pytest.mark.slow
def test_the_tests_of_weights_in_few_bits_pass_without_the_library() -> None:
    files = ["tests/model/test_int8.py", "tests/model/test_sixteen_bits.py"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**os.environ, "NEOX_EQX_NATIVE": "0"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-2000:]
