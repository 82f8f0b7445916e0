"""The files around the code agree with each other, and the shapes are checked in this run."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import yaml
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement

from neox_eqx import __version__
from neox_eqx.model.linear import project
from scripts.pin import canonical, versions, with_hashes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LISTS = {path.stem: path for path in ROOT.glob("requirements*.txt")}
PINS = {
    name: {canonical(pin): version for pin, version in versions(path.read_text("utf-8")).items()}
    for name, path in LISTS.items()
}
INFERENCE, TESTS, PLAN = (PINS[f"requirements{of}"] for of in ("", "-test", "-plan"))


@pytest.mark.typed
def test_a_wrong_shape_raises_in_tests() -> None:
    with pytest.raises(TypeCheckError, match="parameters of neox_eqx.model.linear.project"):
        project(jnp.ones((2, 3)), jnp.ones((5, 4)))


def test_tests_run_on_eight_cpu_devices_in_full_precision() -> None:
    assert [device.platform for device in jax.devices()] == 8 * ["cpu"]
    assert jax.config.jax_default_matmul_precision == "highest"


def test_every_direct_dependency_is_pinned_above_its_lower_bound() -> None:
    lists = [(INFERENCE, PROJECT["dependencies"])]
    lists += [(INFERENCE | TESTS | PLAN, of) for of in PROJECT["optional-dependencies"].values()]
    for pins, requirements in lists:
        for requirement in map(Requirement, requirements):
            pin = pins[canonical(requirement.name)]
            assert requirement.specifier.contains(pin), requirement


def test_what_inference_installs_is_what_it_needs_and_setuptools() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert {*INFERENCE} == _needed_by(PROJECT["dependencies"] + build)


def _needed_by(requirements: list[str]) -> set[str]:
    """The packages that these ask for, and what those ask for in turn."""
    found: set[tuple[str, str]] = set()
    left = [*map(Requirement, requirements)]
    while left:
        requirement = left.pop()
        for extra in {"", *requirement.extras}:
            if (canonical(requirement.name), extra) in found:
                continue
            found.add((canonical(requirement.name), extra))
            asked = map(Requirement, metadata.requires(requirement.name) or [])
            left += [a for a in asked if not a.marker or a.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_each_package_is_pinned_once() -> None:
    names = [name for pins in PINS.values() for name in pins]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_every_pin_has_hashes_and_names_no_host(path: Path) -> None:
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(filter(None, lines)) + "\n"
    hashes = r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"(?:[\w.-]+==[\w.]+{hashes})+", text)


def test_the_hashes_of_a_new_version_take_the_place_of_the_old() -> None:
    text = "# Tests\nA_b==1.0 \\\n    --hash=sha256:1\n"
    same = with_hashes(text, {"a-b==1.0": ["--hash=sha256:1", "--hash=sha256:0"]})
    assert same == "# Tests\nA_b==1.0 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n"
    # A file that the index does not have stays as long as the others are of its release.
    assert with_hashes(same, {"a-b==1.0": ["--hash=sha256:0"]}) == same
    raised = with_hashes(same.replace("1.0", "1.1"), {"a-b==1.1": ["--hash=sha256:2"]})
    assert raised == "# Tests\nA_b==1.1 \\\n    --hash=sha256:2\n"


def test_nothing_pinned_is_for_an_accelerator() -> None:
    pins = INFERENCE | TESTS
    assert not [name for name in pins if re.match("nvidia|cuda|triton|libtpu|jax-cuda", name)]


def test_changelog_and_citation_name_the_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])


def test_ci_runs_the_tests_and_tries_the_package_from_the_oldest_python_on() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    tests, package = (workflow["jobs"][name] for name in ("tests", "package"))
    assert tests["steps"][-1] == {"run": ".ci/run"}
    assert package["steps"][-1] == {"run": "make package VERSIONS=${{ matrix.versions }}"}
    lowest, newest = package["strategy"]["matrix"]["include"]
    assert (lowest["versions"], newest["versions"]) == ("lowest", "newest")
    assert PROJECT["requires-python"] == f">={lowest['python']}"


@pytest.mark.parametrize("form", ["bug", "checkpoint", "idea"])
def test_an_issue_form_has_what_the_page_asks_for(form: str) -> None:
    path = ROOT / ".github/ISSUE_TEMPLATE" / f"{form}.yml"
    content = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "labels", "body"} == {*content}
    fields = [field["id"] for field in content["body"]]
    assert len(fields) == len({*fields})
    assert all(field["attributes"]["label"] for field in content["body"])


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "docs", "tpu-compiler"])
def test_each_make_target_sets_up_what_it_needs(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", *(path.name for path in LISTS.values())):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    command = ["make", "--dry-run", target, f"PYTHON={sys.executable}"]
    # Not the settings of a make that runs these tests: it would print directories, for one.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    output = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    plan = output.splitlines()
    assert plan[0] == f"{sys.executable} -m venv .venv"
    installs = [line for line in plan if " pip install " in line]
    assert installs[0].endswith("--require-hashes -r requirements.txt")
    assert all("--no-deps" in line for line in installs)
    assert all("--require-hashes" in line or line.endswith("-e .") for line in installs)
    adds_tests = target in ("test", "test-all", "lint", "docs")
    assert ("-r requirements-test.txt" in output) == adds_tests
    assert "torch" not in output or adds_tests


def test_the_examples_of_chunks_on_the_site_are_those_that_are_tested() -> None:
    page = (ROOT / "docs" / "scores-and-chunks.md").read_text("utf-8")
    examples = (ROOT / "examples" / "chunks.py").read_text("utf-8")
    functions = re.findall(r"^def .*?(?=\n\n\n)", examples, re.DOTALL | re.MULTILINE)
    shown = [function for function in functions if f"```python\n{function}\n```" in page]
    assert shown == functions[:4]
