"""Runs cases, each in a directory of its own with the valid files that it names."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.fuzz.case import MODEL, Case
from tests.fuzz.places import ReadingDirectories, difference, fill, look
from tests.hub import Repository, serving

ROOT = Path(__file__).parents[2]
# Above what the server itself takes. A model of a few thousand parameters takes a third of it.
MOST_BYTES = 900 * 2**20
MOST_CPU_SECONDS = 25
# Of a reader, which shares its process with others.
MOST_MORE_BYTES = 400 * 2**20
MOST_READING_SECONDS = 8
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


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a case runs: what is watched, the directory in it, and its standard streams."""

    root: Path
    directory: Path
    streams: Mapping[str, Path]


class Runner:
    """A server of tests/fuzz/server.py and the directories in which its cases run."""

    def __init__(self, place: Path, environment: Mapping[str, str] = {}) -> None:
        self.place = place
        self.root = place / "case"
        # Some way down, so that `..` leads to what is watched.
        self.directory = self.root / "up" / "up" / "work"
        self._streams = place / "streams"
        self.bases: dict[str, Path] = {}
        self._reading = ReadingDirectories(place / "read", self.bases)
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
        return self.run_all([case])[0]

    def run_all(self, cases: Sequence[Case]) -> list[Outcome]:
        """The outcomes of cases that share a process, which only those of readers can be several.

        Those after one at which the process ended have a new one.
        """
        self._clear()
        places = [self._prepare(case, number) for number, case in enumerate(cases)]
        before = [look(place.root) for place in places]
        if "model" in self.bases:
            tiny = Repository.of(self.bases["model"] / "model")
            self._hub.repositories["models"] = {MODEL: tiny}
        self._hub.answers = cases[0].hub or {}
        answers: list[dict[str, Any]] = []
        while len(answers) < len(cases):
            left = slice(len(answers), None)
            answers += self._ask(cases[left], places[left])
        outcomes = [
            Outcome(
                **answer,
                stdout=_text(place.streams["stdout"]),
                stderr=_text(place.streams["stderr"]),
                changed=difference(looked, look(place.root)),
            )
            for answer, place, looked in zip(answers, places, before, strict=True)
        ]
        for case, place, outcome in zip(cases, places, outcomes, strict=True):
            if case.reads:
                self._reading.give_back(case, place.directory, is_changed=bool(outcome.changed))
        return outcomes

    def _prepare(self, case: Case, number: int) -> "_Place":
        streams = {
            name: self._streams / f"{name}{number}" for name in ("stdin", "stdout", "stderr")
        }
        if case.reads:
            directory = self._reading.take(case)
            place = _Place(directory, directory, streams)
        else:
            place = _Place(self.root, self.directory, streams)
            fill(case, self.bases, place.directory, shutil.copyfile)
        for edit in case.edits:
            edit.apply(place.directory)
        streams["stdin"].write_bytes(case.stdin.encode("utf-8", "surrogateescape"))
        return place

    def _ask(self, cases: Sequence[Case], places: Sequence["_Place"]) -> list[dict[str, Any]]:
        request = {
            "cases": [
                {
                    "program": case.program,
                    "args": case.args,
                    "directory": str(place.directory),
                    **{name: str(path) for name, path in place.streams.items()},
                }
                for case, place in zip(cases, places, strict=True)
            ],
            "answers": str(self.place / "answers"),
            "most_bytes": self._before_bytes + MOST_BYTES,
            "most_more_bytes": MOST_MORE_BYTES,
            "most_cpu_seconds": MOST_READING_SECONDS if cases[0].reads else MOST_CPU_SECONDS,
            "most_idle_seconds": MOST_IDLE_SECONDS,
        }
        assert self._server.stdin
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line, (self.place / "server.log").read_text()
        return json.loads(line)

    def _clear(self) -> None:
        for root in (self.root, self._streams):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
        for path in (self.directory, self.root / "home", self.root / "tmp"):
            path.mkdir(parents=True)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_SHOWN).decode("utf-8", "replace")
