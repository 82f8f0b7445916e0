"""Whether a case ended as every command must, and how a find is told from another."""

import json
import re

from tests.fuzz.case import Case
from tests.fuzz.runner import Outcome

LONGEST_LINE = 2000
_WRITES_TO = ("--output", "--json", "--picture", "--output_path", "-o")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufdd0]")
# Of a run that can go on: rows that are complete, and what a run's directory holds.
_GOING_ON = re.compile(
    r"\.partial$|/\.lock$|/run\.json$|/metrics\.jsonl$|/checkpoints(/|$)|/loss\.png$|/wandb(/|$)"
)
# Where a library keeps what it may keep; and a lock that is there for whoever comes next.
_CACHES = ("home/hf", "home/.cache", "tmp")
_FRAME = re.compile(
    r'File "[^"]*?((?:neox_eqx|scripts)/[\w/]+\.py|generate\.py|train\.py)", line \d+, in (\w+)'
)
_PANIC = re.compile(r"\nthread '[^\n]*panicked at (?:(?!\nnote: )[\s\S])*\nnote: [^\n]*\n")
_LITTER = re.compile(r"/\.[^/]*partial[^/]*$")


def fault(case: Case, outcome: Outcome) -> str | None:
    """What is wrong with how a case ended, in some words; None if nothing is."""
    if outcome.killed:
        return f"over the limit of {outcome.killed}"
    if outcome.status not in (0, 2) and not _stopped(case, outcome):
        return f"status {outcome.status}: {_last_frame(outcome.stderr)}"
    if "Traceback (most recent call last)" in outcome.stderr:
        return f"a traceback on stderr: {_last_frame(outcome.stderr)}"
    return _about_lines(case, outcome) or _about_files(case, outcome)


def _stopped(case: Case, outcome: Outcome) -> bool:
    """Training whose loss is not finite ends with 1 and a line."""
    is_told = "Traceback" not in outcome.stderr and "finite" in outcome.stderr
    return case.program == "train.py" and outcome.status == 1 and is_told


def _about_lines(case: Case, outcome: Outcome) -> str | None:
    lines = outcome.stderr.split("\n")
    errors = [line for line in lines if line.startswith(f"{case.program}: error: ")]
    # A library in Rust that fails says so itself before anybody can catch it.
    told = _PANIC.sub("", outcome.stderr).split("\n") if errors else lines
    others = [line for line in told if line and line not in errors]
    if outcome.status == 2 and len(errors) != 1:
        return f"status 2 with {len(errors)} lines of error"
    if outcome.status == 0 and errors:
        return "success with a line of error"
    for line in lines:
        if len(line) > LONGEST_LINE:
            return f"a line of {len(line)} characters on stderr: {line[:80]}"
        if found := _CONTROL.search(line):
            return f"the control character {found[0]!r} on stderr: {line[:80]!r}"
    for line in others:
        if not line.startswith(f"{case.program}: warning: "):
            return f"on stderr stands: {line[:80]}"
    return None


def _about_files(case: Case, outcome: Outcome) -> str | None:
    for path, change in sorted(outcome.changed.items()):
        if path.startswith(_CACHES):
            continue
        if _LITTER.search(path):
            return f"{change} and left: {path}"
        output = _output_of(case, path)
        if output is None:
            return f"{change} outside the output: {path}"
        if outcome.status and not _GOING_ON.search(path) and not _is_whole(case, outcome, path):
            return f"{change} in spite of the failure: {path}"
    return None


def _output_of(case: Case, path: str) -> str | None:
    """The output among the arguments that a path belongs to."""
    within = path.removeprefix("up/up/work/")
    for output in outputs(case):
        if within == output or within.startswith((f"{output}/", f"{output}.partial")):
            return output
    return None


def outputs(case: Case) -> list[str]:
    found = [
        value
        for option, value in zip(case.args, case.args[1:], strict=False)
        if option in _WRITES_TO
    ]
    found += [arg.partition("=")[2] for arg in case.args if arg.startswith("--output=")]
    if case.program == "convert_params.py" and len(case.args) > 1:
        found.append(case.args[1])
    return [output.rstrip("/").removeprefix("./") for output in found]


def _is_whole(case: Case, outcome: Outcome, path: str) -> bool:
    """Rows of which some say why they failed are a whole file, and a training run's directory."""
    if case.program == "train.py":
        return path.removeprefix("up/up/work/") in outputs(case)
    return case.program in ("generate.py", "score.py") and "error" in outcome.stderr


def _last_frame(stderr: str) -> str:
    """Where of this project's files an exception passed last, and what it was."""
    ours = _FRAME.findall(stderr)
    lines = [line for line in stderr.strip().split("\n") if line and not line.startswith(" ")]
    what = lines[-1][:100] if lines else ""
    return f"{' '.join(ours[-1]) if ours else 'no frame of ours'}: {what}"


def signature(case: Case, found: str) -> str:
    """The same for finds of the same cause, mostly: without numbers and what is quoted."""
    whose = f"{case.program} {case.args[0]}" if case.reads else case.program
    return re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "_", f"{whose}: {found}")[:160]


def row_errors(text: str) -> int:
    """The rows of an output that say why they failed."""
    return sum("error" in json.loads(line) for line in text.splitlines())
