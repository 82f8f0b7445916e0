"""Runs cases, each in a directory of its own with the valid files that it names."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.hub import serving

ROOT = Path(__file__).parents[2]
# Above what the server itself takes. A model of a few thousand parameters takes a third of it.
MOST_BYTES = 900 * 2**20
MOST_CPU_SECONDS = 25
# In which a process, be the machine however busy, does nothing at all.
MOST_IDLE_SECONDS = 10
_SHOWN = 2**16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended, and what it left."""

    status: int
    killed: str | None
    """The limit at which it was: "memory", "time" or "idle time"."""
    seconds: float
    """Of the processor."""
    peak_bytes: int
    stdout: str
    stderr: str
    changed: dict[str, str]
    """What is otherwise than before, by its path from the root of the case: "made", "altered" or
    "removed"."""


class Runner:
    """A server of tests/fuzz/server.py and the one directory in which its cases run."""

    def __init__(self, place: Path, environment: Mapping[str, str] = {}) -> None:
        self.place = place
        self.root = place / "case"
        # Some way down, so that `..` leads to what is watched.
        self.directory = self.root / "up" / "up" / "work"
        self.bases: dict[str, Path] = {}
        home = self.root / "home"
        own: dict[str, Any] = {
            "HOME": home,
            "HF_HOME": home / "hf",
            "TMPDIR": self.root / "tmp",
            "WANDB_MODE": "disabled",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": place / "compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "0",  # there is a Hub on this machine
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "COLUMNS": "100",
            "RUST_BACKTRACE": "0",
        }
        self._clear()
        self._stack = contextlib.ExitStack()
        self._hub = self._stack.enter_context(serving())
        own["HF_ENDPOINT"] = self._hub.address
        with (place / "server.log").open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("server.py"), ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    **{key: str(value) for key, value in own.items()},
                    **environment,
                },
                cwd=ROOT,
            )
        started = self._answer()
        assert started["threads"] == 1, started
        self._before_bytes = started["bytes"]

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._stack.close()

    def add_base(self, name: str, write: Callable[[Path], None]) -> None:
        """Keeps the files that `write` writes into a directory, for cases that ask for them."""
        self.bases[name] = self.place / "bases" / name
        self.bases[name].mkdir(parents=True)
        write(self.bases[name])

    def run(self, case: Case) -> Outcome:
        self._clear()
        for base in case.bases:
            shutil.copytree(self.bases[base], self.directory, dirs_exist_ok=True, symlinks=True)
        for edit in case.edits:
            edit.apply(self.directory)
        self._hub.directory = self.bases["model"] / "model" if "model" in self.bases else None
        self._hub.answers = case.hub or {}
        stdin = self.place / "stdin"
        stdin.write_bytes(case.stdin.encode("utf-8", "surrogateescape"))
        for name in ("stdout", "stderr"):
            (self.place / name).unlink(missing_ok=True)
        before = _look(self.root)
        request = {
            "program": case.program,
            "args": case.args,
            "directory": str(self.directory),
            "most_bytes": self._before_bytes + MOST_BYTES,
            "most_cpu_seconds": MOST_CPU_SECONDS,
            "most_idle_seconds": MOST_IDLE_SECONDS,
            **{name: str(self.place / name) for name in ("stdin", "stdout", "stderr")},
        }
        assert self._server.stdin
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._answer()
        return Outcome(
            **answer,
            stdout=_text(self.place / "stdout"),
            stderr=_text(self.place / "stderr"),
            changed=_difference(before, _look(self.root)),
        )

    def _answer(self) -> dict:
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line, (self.place / "server.log").read_text()
        return json.loads(line)

    def _clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        for path in (self.directory, self.root / "home", self.root / "tmp"):
            path.mkdir(parents=True)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_SHOWN).decode("utf-8", "replace")


def _look(root: Path) -> dict[str, tuple[int, ...]]:
    """What stands below, by its path; a directory's own time is left out, as that tells nothing."""
    found = {}
    for path in root.rglob("*"):
        stat = path.lstat()
        times = () if path.is_dir() and not path.is_symlink() else (stat.st_mtime_ns, stat.st_size)
        found[str(path.relative_to(root))] = (stat.st_mode, *times)
    return found


def _difference(
    before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    made = dict.fromkeys(after.keys() - before.keys(), "made")
    removed = dict.fromkeys(before.keys() - after.keys(), "removed")
    altered = {
        name: "altered" for name in before.keys() & after.keys() if before[name] != after[name]
    }
    return made | removed | altered
