"""Attacks every command with drawn faults of its files and options.

python -m tests.fuzz --seconds 3600       # a file for each find, and how many cases ran
python -m tests.fuzz --replay FILE        # runs the case in a file again
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.bases import add_bases
from tests.fuzz.case import Case
from tests.fuzz.fuzzing import fuzz, reduced
from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Outcome, Runner
from tests.fuzz.verdict import fault


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        with Runner(Path(place)) as runner:
            add_bases(runner)
            if options.replay:
                sys.exit(_replay(runner, Case.load(options.replay)))
            sys.exit(_fuzz(runner, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--kinds", nargs="*", help="of all, those that have one of these in them")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), help="where finds go")
    parser.add_argument("--replay", type=Path, help="run this find again, and nothing else")
    return parser.parse_args()


def _fuzz(runner: Runner, options: argparse.Namespace) -> int:
    kinds = [kind for kind in KINDS if any(word in kind for word in options.kinds or [""])]
    print(f"seed {options.seed}, {len(kinds)} kinds", flush=True)

    def tell(case: Case, what: str, outcome: Outcome) -> None:
        options.finds.mkdir(exist_ok=True)
        number = len(list(options.finds.iterdir()))
        path = options.finds / f"{number:03} {case.kind} {options.seed}.json".replace(" ", "-")
        case.save(path)
        reduced(runner, case, what).save(path)
        print(f"{path}: {what}", flush=True)

    found = fuzz(runner, options.seconds, options.seed, kinds, tell)
    for kind in kinds:
        ended = {status: n for (own, status), n in sorted(found.statuses.items()) if own == kind}
        print(f"{found.cases[kind]:6} {kind}: {ended}")
    print(f"{found.cases.total()} cases, {len(found.faults)} finds")
    return bool(found.faults)


def _replay(runner: Runner, case: Case) -> int:
    outcome = runner.run(case)
    print(f"{case.program} {' '.join(case.args)}"[:2000])
    for edit in case.edits:
        print(f"  {edit.path}: {edit.how} {edit.data[:200]!r}")
    print(outcome.stdout[-2000:], outcome.stderr[-4000:], sep="\n")
    print(f"status {outcome.status}, {outcome.seconds:.1f} s, {outcome.peak_bytes >> 20} MiB")
    what = fault(case, outcome)
    print(what or "nothing is wrong")
    return bool(what)


if __name__ == "__main__":
    main()
