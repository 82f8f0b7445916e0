"""Draws cases of each kind in turn, runs them and keeps what is found."""

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

import hypothesis
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from tests.fuzz.case import Case
from tests.fuzz.kinds import KINDS, READING, Bases
from tests.fuzz.runner import Outcome, Runner
from tests.fuzz.verdict import fault, signature

# Cases of a reader that share a process.
_TOGETHER = 50
_READINGS = 3


@dataclasses.dataclass
class Found:
    """What a run of the fuzzer has seen."""

    cases: Counter[str] = dataclasses.field(default_factory=Counter)
    """Of each kind, how many."""
    statuses: Counter[tuple[str, int]] = dataclasses.field(default_factory=Counter)
    faults: dict[str, tuple[Case, str]] = dataclasses.field(default_factory=dict)
    """A case for each fault, by its signature."""


def fuzz(
    runner: Runner,
    seconds: float,
    seed: int,
    kinds: Collection[str] = tuple(KINDS),
    tell: Callable[[Case, str, Outcome], None] = lambda *_: None,
    *,
    turns: int | None = None,
) -> Found:
    """Runs cases of each kind in turn for so long, for so many turns, or until Ctrl-C.

    A seed draws the same ones.
    """
    set_hypothesis_home_dir(runner.place / "hypothesis")
    found = Found()
    end = time.monotonic() + seconds
    drawn = {kind: draw_cases(kind, seed, runner.bases) for kind in kinds}
    try:
        for kind in itertools.islice(_in_turn(kinds), turns):
            if time.monotonic() > end:
                break
            cases = list(itertools.islice(drawn[kind], _TOGETHER if kind in READING else 1))
            for case, outcome in zip(cases, runner.run_all(cases), strict=True):
                found.cases[kind] += 1
                found.statuses[kind, outcome.status] += 1
                _judge(runner, case, outcome, found, tell)
    except KeyboardInterrupt:
        pass  # what was seen is told
    return found


def _in_turn(kinds: Collection[str]) -> Iterator[str]:
    """Endlessly; after several of readers, of which each is many cases, one of commands."""
    reading = [kind for kind in kinds if kind in READING]
    commands = itertools.cycle([kind for kind in kinds if kind not in READING])
    for turn in itertools.count():
        if reading:
            yield reading[turn % len(reading)]
        if not reading or turn % _READINGS == 0:
            yield from itertools.islice(commands, 1)


def _judge(
    runner: Runner,
    case: Case,
    outcome: Outcome,
    found: Found,
    tell: Callable[[Case, str, Outcome], None],
) -> None:
    """Keeps a find, if it is a new one; one of many cases in a process is seen again alone."""
    what = fault(case, outcome)
    if what and case.reads and signature(case, what) not in found.faults:
        outcome = runner.run(case)
        what = fault(case, outcome)
    if what and (mark := signature(case, what)) not in found.faults:
        found.faults[mark] = case, what
        tell(case, what, outcome)


def draw_cases(kind: str, seed: int, bases: Bases) -> Iterator[Case]:
    """Endless cases of a kind."""
    for own in itertools.count(seed):
        yield from _draw(kind, own, bases)


def _draw(kind: str, seed: int, bases: Bases) -> list[Case]:
    """Some cases. Hypothesis only draws: it keeps nothing, and shrinks nothing.

    Its first is always the simplest, and is left out.
    """
    cases: list[Case] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=1 + (_TOGETHER if kind in READING else _READINGS),
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def add(data: st.DataObject) -> None:
        cases.append(KINDS[kind](data.draw, bases))

    add()
    return cases[1:]


def reduced(runner: Runner, case: Case, what: str, most: int = 20) -> Case:
    """A case of the same fault with fewer edits and arguments, as far as so many runs find one."""
    mark = signature(case, what)
    tries = 0
    for smaller in _smaller(case):
        if tries == most:
            break
        tries += 1
        if "limit" in what:
            break  # it would take long each time
        left = fault(smaller, runner.run(smaller))
        if left and signature(smaller, left) == mark:
            return reduced(runner, smaller, left, most - tries)
    return case


def _smaller(case: Case) -> list[Case]:
    args, edits = case.args, case.edits
    fewer = [
        dataclasses.replace(case, args=args[:place] + args[place + count :])
        for count in (2, 1)
        for place in range(len(args) - count + 1)
        if args[place].startswith("--")
    ]
    return fewer + [
        dataclasses.replace(case, edits=edits[:place] + edits[place + 1 :])
        for place in range(len(edits))
    ]
