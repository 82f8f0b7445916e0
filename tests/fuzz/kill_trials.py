"""Trials of commands that are killed: each a run that is ended, begun again and looked at."""

import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.fuzz.kill_cases import CASES, OUT, Case, litter
from tests.fuzz.kill_child import start
from tests.fuzz.tiny_model import write_model

_SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGINT)
# Of a process that a signal ends; train.py has statuses of its own for those that it takes.
_STATUSES = {-signal.SIGKILL, -signal.SIGTERM, 75, 130}
_SECONDS = 300


class Fault(Exception):
    """Something was lost, is other than it should be, or is left."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nobody killed."""

    status: int
    seconds: float
    points: dict[bool, int]
    """Without and with lines."""
    largest: int
    """Bytes of its largest file."""
    result: Any


@dataclasses.dataclass
class Counts:
    """What was done to a case."""

    trials: int = 0
    kills: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Kills:
    """Trials of cases, in directories below `place`."""

    def __init__(self, place: Path, seed: int):
        self._place, self._random = place, random.Random(seed)
        self._whole: dict[str, Whole] = {}
        self.counts: dict[str, Counts] = collections.defaultdict(Counts)
        (place / "base").mkdir()
        _write_base(place / "base")

    def trial(self, name: str) -> int:
        """Kills the command of a case and runs it to its end; returns how often it was killed.

        Raises:
            Fault: with all that was done.
        """
        case = CASES[name]
        whole = self._whole.get(name) or self._run_whole(name)
        place = self._new_place(case)
        done = []
        kept: set[str] = set()
        try:
            for _ in range(self._random.randint(1, 4)):
                how, status = self._killed(case, place, whole)
                done.append(f"{how} ended in {status}")
                _check_end(how, status, place, whole)
                if how.startswith("FULL") or status != whole.status:
                    self.counts[name].kills[how.split()[0]] += 1
                now = case.kept(place / "work")
                if kept - now:
                    raise Fault(f"lost {sorted(kept - now)[:3]}")
                kept = now
                # A directory that is whole is not written over.
                if was_whole := case.program == "convert_params.py" and bool(kept):
                    break
            status = _wait(_start(case, place))
            if status != (2 if was_whole else whole.status):
                raise Fault(f"at last status {status}: {_said(place)}")
            _check(case, place, whole)
        except Fault as fault:
            kept_place = self._place / f"fault-{self.counts[name].trials}-{name.replace(' ', '-')}"
            shutil.copytree(place, kept_place, symlinks=True, dirs_exist_ok=True)
            raise Fault(f"{name}: {fault}\n  after: {'; '.join(done)}\n  {kept_place}") from fault
        self.counts[name].trials += 1
        return sum(not each.endswith(f"ended in {whole.status}") for each in done)

    def _killed(self, case: Case, place: Path, whole: Whole) -> tuple[str, int]:
        """A run that gets a signal, if it does not end before; how, and its status."""
        number = self._random.choice(_SIGNALS)
        called = number.name
        if self._random.random() < 0.3:
            seconds = self._random.uniform(0, whole.seconds)
            status = _wait(_start(case, place), seconds, number)
            return f"{called} after {seconds:.2f} s", status
        if self._random.random() < 0.2:
            largest = int(whole.largest ** self._random.uniform(0.3, 1))
            return f"FULL at {largest} bytes", _wait(_start(case, place, largest=largest))
        lines = self._random.random() < 0.4
        point = self._random.randint(1, whole.points[lines])
        status = _wait(_start(case, place, point=point, lines=lines, number=number))
        return f"{called} at point {point} {'of lines' * lines}", status

    def _run_whole(self, name: str) -> Whole:
        case = CASES[name]
        points = {}
        for lines in (True, False):  # the second compiles nothing any more
            place = self._new_place(case)
            start = time.monotonic()
            status = _wait(_start(case, place, counts=True, lines=lines))
            seconds = time.monotonic() - start
            if status != (2 if "--skip-bad" in case.args else 0):
                raise Fault(f"{name} ends in {status} without a kill: {_said(place)}")
            points[lines] = int((place / "points").read_text())
            if left := litter(place):
                raise Fault(f"{name} leaves {left} without a kill")
        paths = [
            path for path in (place / "work").rglob("*") if OUT in str(path.relative_to(place))
        ]
        largest = max(path.stat().st_size for path in paths if path.is_file())
        whole = Whole(status, seconds, points, largest, case.result(place / "work"))
        self._whole[name] = whole
        return whole

    def _new_place(self, case: Case) -> Path:
        place = self._place / "trial"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._place / "base", place / "work")
        for name in ("home", "tmp"):
            (place / name).mkdir()
        if case.source == "native":
            native = self._place / "native"
            if not native.exists():
                made = dataclasses.replace(CASES["convert, hf to native"])
                assert not _wait(_start(made, place)), _said(place)
                (place / "work" / OUT).rename(native)
            shutil.copytree(native, place / "work" / "native")
        return place


def _check_end(how: str, status: int, place: Path, whole: Whole) -> None:
    """A signal has its status, and a full disk one line; what came too late, that of the whole."""
    if how.startswith("FULL"):
        is_told = status == 2 and _said(place).count("\n") == 1
        is_right = status == whole.status or is_told
    else:
        is_right = status in _STATUSES | {whole.status}
    if not is_right or "Traceback" in _said(place):
        raise Fault(f"{how}: status {status}: {_said(place)}")


def _check(case: Case, place: Path, whole: Whole) -> None:
    if not (place / "work" / OUT).exists():
        raise Fault(f"nothing came of it: {_said(place)}")
    result = case.result(place / "work")
    if result != whole.result:
        raise Fault(f"{str(result)[:500]}\n  is not {str(whole.result)[:500]}")
    if left := litter(place):
        raise Fault(f"left {left}")


def _said(place: Path) -> str:
    return (place / "stderr").read_text(errors="replace")[-1500:]


def _start(case: Case, place: Path, **how: Any) -> int:
    return start(case.program, case.args, place, **how)


def _wait(pid: int, seconds: float = _SECONDS, number: int = signal.SIGKILL) -> int:
    """The exit status of the child, which gets the signal after so many seconds."""
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, number)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def _write_base(directory: Path) -> None:
    write_model(directory)
    words = "Tom has {} red apples and {} green ones on the table"
    texts = [" ".join(words.format(n, 40 - n).split()[: 3 + n % 8]) for n in range(30)]
    lines = [
        {"prompt": text, "seed": n, "max_new_tokens": 3 + n % 5} for n, text in enumerate(texts)
    ]
    _write_lines(directory / "prompts.jsonl", lines)
    _write_lines(directory / "texts.jsonl", [{"text": text} for text in texts] + [{"text": ""}])
    questions = [{"question": text, "answer": f"{n}\n#### {n}"} for n, text in enumerate(texts)]
    _write_lines(directory / "data.jsonl", questions)


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
