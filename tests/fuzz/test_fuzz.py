"""Whatever a file or an option holds, a command ends in success or in one line and status 2."""

from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.corpus import CORPUS
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.kinds import FILES_READ, READING, files_of
from tests.fuzz.runner import Outcome, Runner
from tests.fuzz.verdict import fault

SECONDS = 32
"""With the start of the server it is a minute."""


def test_what_was_found_once_ends_as_it_must(runner: Runner) -> None:
    """In one test: a server of another worker's own would take longer than all of them."""
    for name, (case, status) in CORPUS.items():
        outcome = runner.run(case)
        assert not fault(case, outcome), f"{name}: {outcome.stderr}"
        assert outcome.status == status, f"{name}: {outcome.stderr}"


def test_files_without_faults_are_read(runner: Runner) -> None:
    cases = [
        Case(kind, "read", tuple(call.replace("*", path).split()), (base,))
        for kind, base, pattern, calls in FILES_READ
        for call in calls
        for path in (files_of(base, pattern, runner.bases) if "*" in call else [""])
    ]
    for case, outcome in zip(cases, runner.run_all(cases), strict=True):
        assert (outcome.status, outcome.stderr) == (0, ""), f"{case.kind}: {outcome.stderr}"


def test_drawn_faults_end_in_success_or_in_one_line_and_status_2(
    runner: Runner, tmp_path: Path
) -> None:
    finds: list[str] = []

    def tell(case: Case, what: str, outcome: Outcome) -> None:
        path = tmp_path / f"{len(finds)}.json"
        case.save(path)
        finds.append(f"{what}\n  python -m tests.fuzz --replay {path}\n{outcome.stderr[-1000:]}")

    # Not beyond one and a half rounds of all readers, so that the cases are the same each time.
    found = fuzz(runner, SECONDS, seed=0, tell=tell, turns=2 * len(READING))
    assert not finds, "\n".join(finds)
    assert len(found.cases) > 1
