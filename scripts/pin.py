"""Writes the hashes of all files of every pinned release beside its version, as pip checks them.

Edit a version in a list, run `make pin`, and commit what it wrote. requirements-cuda.txt is made
anew: what torch's own builds for Linux ask for beyond the others. uv does the asking, from a
virtual environment that is removed again.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "requirements-cuda.txt"
LISTS = sorted({*ROOT.glob("requirements*.txt")} - {CUDA})
OLDEST_PYTHON = "3.11"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        uv = _uv(Path(directory))
        for path in LISTS:
            text = path.read_text("utf-8")
            path.write_text(with_hashes(text, _hashes(uv, text, "--no-deps")), "utf-8")
        pins = versions("".join(path.read_text("utf-8") for path in LISTS))
        constraints = Path(directory) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pins[name]}\n" for name in pins), "utf-8")
        asked = _hashes(uv, f"torch=={pins['torch']}", "--constraints", str(constraints))
        beyond = [pin for pin in asked if pin.split("==")[0] not in map(canonical, pins)]
        comments = [line for line in CUDA.read_text("utf-8").splitlines() if line.startswith("#")]
        CUDA.write_text(with_hashes("\n".join([*comments, *beyond]), asked), "utf-8")


def versions(text: str) -> dict[str, str]:
    """The version of each package that a list pins."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def pinned_hashes(text: str) -> dict[str, list[str]]:
    """The hashes that stand below each pin, by its name and version in uv's spelling."""
    hashes: dict[str, list[str]] = {}
    for line in text.splitlines():
        pin = re.match(r"([\w.-]+)==([^\s;]+)", line)
        if pin:
            own = hashes.setdefault(f"{canonical(pin[1])}=={pin[2]}", [])
        elif "--hash=" in line:
            own.append(line.strip(" \\"))
    return hashes


def with_hashes(text: str, hashes: dict[str, list[str]]) -> str:
    """A list of pins and comments with these hashes below the pins.

    What stood below a pin stays if any of it is a file of the same release: the others are of
    builds from elsewhere, as those of torch for a CPU.
    """
    before = pinned_hashes(text)
    lines = []
    for line in text.splitlines():
        if "--hash=" in line:
            continue
        pin = line.rstrip(" \\")
        if not versions(pin):
            lines.append(line)
            continue
        name, version = pin.split("==")
        key = f"{canonical(name)}=={version}"
        old = set(before[key])
        own = sorted(old | set(hashes[key]) if old & set(hashes[key]) else set(hashes[key]))
        lines.append(" \\\n    ".join([pin, *own]))
    return "\n".join(lines) + "\n"


def canonical(name: str) -> str:
    """One spelling of a package's name, by PEP 503."""
    return re.sub("[-_.]+", "-", name).lower()


def _uv(directory: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([directory / "bin/python", "-m", "pip", "install", "--quiet", "uv"], check=True)
    return directory / "bin/uv"


def _hashes(uv: Path, requirements: str, *options: str) -> dict[str, list[str]]:
    """The hashes of all files of each release, for every platform."""
    pins = "\n".join(line.rstrip(" \\") for line in requirements.splitlines() if "==" in line)
    command = [str(uv), "pip", "compile", "-", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", OLDEST_PYTHON, "--no-header", "--no-annotate", *options]
    ran = subprocess.run(command, input=pins, stdout=subprocess.PIPE, text=True, check=True)
    return pinned_hashes(ran.stdout)


if __name__ == "__main__":
    main()
