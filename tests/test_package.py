"""The wheel and the sdist: what is in them, and that they work where nothing else is installed."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import neox_eqx
from tests.clean_environment import ROOT, built, tried

NEWEST = ("3.14", "3.13", "3.12")
"""Pythons, those first that JAX's newest release is for."""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("distributions"))


def test_the_wheel_has_the_package_the_demo_and_podrun(distributions: tuple[Path, Path]) -> None:
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = f"neox_eqx-{neox_eqx.__version__}"
    assert wheel.name == f"{name}-py3-none-any.whl"
    about = f"{name}.dist-info"
    own = {path for path in files if path.split("/")[0] not in (about, f"{name}.data")}
    assert own == _package()
    assert {"neox_eqx/py.typed", "neox_eqx/demo_model/config.json"} <= own
    # Its first line becomes the Python that it is installed with.
    podrun = files[f"{name}.data/scripts/podrun"].split(b"\n", 1)
    assert podrun == [b"#!python", (ROOT / "podrun").read_bytes().split(b"\n", 1)[1]]
    assert b"neox-eqx = neox_eqx.cli.main:main" in files[f"{about}/entry_points.txt"]
    assert files[f"{about}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / "README.md").read_text("utf-8") in files[f"{about}/METADATA"].decode()


def test_the_sdist_has_what_the_wheel_is_built_of_and_nothing_else(
    distributions: tuple[Path, Path],
) -> None:
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*_package(), "pyproject.toml", "README.md", "LICENSE", "podrun"} <= names
    assert {name.split("/")[0] for name in names} <= {
        *("", "neox_eqx", "neox_eqx.egg-info", "pyproject.toml", "README.md", "LICENSE", "podrun"),
        *("MANIFEST.in", "PKG-INFO", "setup.cfg"),
    }


def _package() -> set[str]:
    """The package's files, without what Python and an install in place made among them."""
    files = (ROOT / "neox_eqx").rglob("*.*")
    own = (path for path in files if path.suffix not in (".pyc", ".so"))
    return {path.relative_to(ROOT).as_posix() for path in own}


@pytest.mark.slow
@pytest.mark.parametrize("versions", ["lowest", "newest"])
def test_it_works_where_nothing_else_is_installed(versions: str, tmp_path: Path) -> None:
    python = sys.executable if versions == "lowest" else _newest_python()
    output = "\n".join(tried(versions, python, tmp_path))
    assert not {"torch", "transformers", "ruff", "lm_eval"} & {
        line.split("==")[0] for line in output.splitlines()
    }
    assert f"\nneox-eqx {neox_eqx.__version__}\n" in output
    assert "#### 79" in output
    assert "usage: neox-eqx COMMAND" in output
    assert "usage: podrun" in output
    assert (tmp_path / "empty" / "a.jsonl").stat().st_size > 0


def _newest_python() -> str:
    """The newest that is installed: by name, or one of pyenv's."""
    names = [path for version in NEWEST if (path := shutil.which(f"python{version}"))]
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.1[2-9].*/bin/python3"), reverse=True)
    for python in [*names, *map(str, pyenv), sys.executable]:
        if subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode:
            continue  # as pyenv's own names of Pythons that are not switched on
        return python
    raise AssertionError("this Python has no venv")
