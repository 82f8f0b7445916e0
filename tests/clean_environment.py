"""Builds the package and tries it where nothing else is installed.

`python -m tests.clean_environment --versions lowest` takes the lowest version of each dependency
that pyproject.toml allows, and `newest` what pip takes by itself, from the index that it is set to;
`--python` says with which Python.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "podrun", "neox_eqx", "tests")
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""
_CACHES = shutil.ignore_patterns("__pycache__")
COMMANDS = (
    ("neox-eqx", "--version"),
    ("neox-eqx", "generate"),
    ("neox-eqx", "generate", "--prompt", "1 + 1 =", "--max-new-tokens", "3", "--output", "a.jsonl"),
    ("neox-eqx", "score", "--help"),
    ("neox-eqx", "convert", "--help"),
    ("neox-eqx", "benchmark", "--help"),
    ("python", "-m", "neox_eqx"),
    ("python", "-c", "import neox_eqx; neox_eqx.GenerationOptions(); print(neox_eqx.__version__)"),
    ("podrun", "--help"),
)
"""What someone does first, in an empty directory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", choices=("lowest", "newest"), required=True)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for line in tried(args.versions, args.python, Path(directory)):
            print(line, flush=True)


def built(directory: Path) -> tuple[Path, Path]:
    """The sdist of this checkout, and the wheel that is made of it, in an empty directory."""
    source = directory / "source"
    source.mkdir()
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=_CACHES)
        else:
            shutil.copy2(ROOT / name, source / name)
    _build("sdist", source, directory)
    (sdist,) = directory.glob("*.tar.gz")
    shutil.unpack_archive(sdist, directory / "unpacked")
    (unpacked,) = (directory / "unpacked").iterdir()
    _build("wheel", unpacked, directory)
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


def tried(versions: str, python: str, directory: Path) -> list[str]:
    """What is installed and what the commands print, each with a line before it.

    Raises:
        CalledProcessError: something cannot be built or installed, or a command fails.
    """
    _, wheel = built(directory)
    constraints, empty = directory / "constraints.txt", directory / "empty"
    constraints.write_text("".join(f"{pin}\n" for pin in lowest() if versions == "lowest"))
    empty.mkdir()
    environment = directory / "environment"
    _run([python, "-m", "venv", str(environment)], empty)
    programs = environment / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", "-c", str(constraints), str(wheel)], empty)
    lines = ["$ pip freeze", _run([*pip, "freeze"], empty)]
    for program, *options in COMMANDS:
        lines += [f"$ {program} {' '.join(options)}"]
        lines += [_run([str(programs / program), *options], empty)]
    return lines


def lowest() -> list[str]:
    """A pin of each dependency at its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in map(Requirement, project["dependencies"])
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def _build(kind: str, source: Path, directory: Path) -> None:
    _run([sys.executable, "-c", BUILD, kind, str(directory)], source)


def _run(command: list[str], directory: Path) -> str:
    """What a command prints: without this checkout, which it would find by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        print(ran.stdout, ran.stderr, sep="\n", file=sys.stderr)
    ran.check_returncode()
    return ran.stdout


if __name__ == "__main__":
    main()
