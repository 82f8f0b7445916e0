"""The files around the code agree with each other, and the shapes are checked in this run."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from neox_eqx.model.layers import project

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _pins(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


PINS = _pins(ROOT / "requirements.txt")
PLAN_PINS = _pins(ROOT / "requirements-plan.txt")


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_a_wrong_shape_raises_in_tests() -> None:
    with pytest.raises(TypeCheckError, match="parameters of neox_eqx.model.layers.project"):
        project(jnp.ones((2, 3)), jnp.ones((5, 4)))


def test_tests_run_on_eight_cpu_devices_in_full_precision() -> None:
    assert [device.platform for device in jax.devices()] == 8 * ["cpu"]
    assert jax.config.jax_default_matmul_precision == "highest"


def test_every_direct_dependency_is_pinned_above_its_lower_bound() -> None:
    extras = PROJECT["optional-dependencies"].values()
    for requirement in sum(extras, PROJECT["dependencies"]):
        name, bound = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+).*", requirement).groups()
        pins = {_canonical(name): version for name, version in (PINS | PLAN_PINS).items()}
        assert _numbers(pins[_canonical(name)]) >= _numbers(bound), requirement


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_nothing_pinned_is_for_an_accelerator() -> None:
    assert not [name for name in PINS if re.match("nvidia|cuda|triton|libtpu|jax-cuda", name)]


def test_the_changelog_names_the_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "tpu-compiler"])
def test_each_make_target_sets_up_first(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "requirements-plan.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    command = ["make", "--dry-run", target, f"PYTHON={sys.executable}"]
    # Not the settings of a make that runs these tests: it would print directories, for one.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    output = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    plan = output.splitlines()
    assert plan[0] == f"{sys.executable} -m venv .venv"
    assert "install" in plan[1] and "-r requirements.txt" in plan[1]
    assert len(plan) > 4


def test_the_examples_of_chunks_in_the_readme_are_those_that_are_tested() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## Texts in chunks")[1].split("\n## ")[0]
    examples = re.findall("```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 4
    tested = (ROOT / "scripts" / "chunk_examples.py").read_text("utf-8")
    assert all(example in tested for example in examples)
