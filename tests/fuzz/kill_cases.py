"""The commands that are killed, and what must be the same as if they had not been."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT = "out"
"""What each command writes."""
KEEP = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A command, and how to see whether it lost anything."""

    program: str
    args: tuple[str, ...]
    kept: Callable[[Path], set[str]]
    """Of a working directory, what is promised to be there from now on."""
    result: Callable[[Path], Any]
    """Of a working directory at the end, what no kill may change."""
    source: str = "model"
    """The model that it reads, which a command of another case may have to make."""


def rows_kept(work: Path) -> set[str]:
    """The whole rows, each with its place; all are there where the output is."""
    path, partial = work / OUT, work / f"{OUT}.partial"
    kept = set()
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept |= {f"{place}\t{line}" for place, line in enumerate(lines)}
    if partial.exists():
        _, *rows = partial.read_text(errors="replace").splitlines(keepends=True) or [""]
        kept |= {row for row in rows if row.endswith("\n")}
    return kept


def rows_result(work: Path) -> bytes:
    return (work / OUT).read_bytes()


def files(directory: Path) -> dict[str, bytes]:
    """All files below, by their paths from there."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def directory_kept(work: Path) -> set[str]:
    """The directory, which is whole as soon as it is there, as the end of the test sees."""
    return {f"{name} {data!r}" for name, data in _stable(work).items()}


def _stable(work: Path) -> dict[str, bytes]:
    """Of a converted checkpoint: Orbax writes the time and random names into what it writes."""
    found = files(work / OUT)
    if any(name.endswith("_METADATA") for name in found):
        chosen = ("config.json", "tokenizer.json")
        certificate = json.loads(found["certificate.json"])
        certificate["result"].pop("files")
        found = {name: found[name] for name in chosen} | {
            "certificate.json": json.dumps(certificate).encode()
        }
    return found


def training_kept(work: Path) -> set[str]:
    """The steps of the newest checkpoint and the rows up to there; without one, all begins anew."""
    steps = _checkpoints(work)
    if not steps:
        return set()
    rows, newest = _metrics(work), max(steps)
    return {f"step {step}" for step in range(1, newest + 1)} | {
        json.dumps(row) for row in rows if row["step"] <= newest
    }


def training_result(work: Path) -> Any:
    out = work / OUT
    names = ("run.json", "hf", "adapter")
    steps = _checkpoints(work)
    assert len(steps) <= KEEP, steps
    return (
        sorted(_metrics(work), key=lambda row: (row["step"], sorted(row))),
        {name: data for name, data in files(out).items() if name.split("/")[0] in names},
        max(steps),
        sorted(path.name for path in out.iterdir()),
        [path.name for path in (out / "checkpoints").iterdir() if not path.name.isdecimal()],
    )


def _checkpoints(work: Path) -> list[int]:
    paths = (work / OUT / "checkpoints").glob("*")
    return [int(path.name) for path in paths if path.name.isdecimal()]


def _metrics(work: Path) -> list[dict[str, Any]]:
    """The rows that are whole, without what differs from run to run by nature."""
    lines = (work / OUT / "metrics.jsonl").read_text().split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    return [{name: row[name] for name in row if name != "tokens_per_second"} for row in rows]


def litter(place: Path) -> list[str]:
    """What is left beside the output and what was there before it began."""
    there = {"model", "native", "prompts.jsonl", "texts.jsonl", "data.jsonl", OUT}
    beside = [f"work/{path.name}" for path in (place / "work").iterdir() if path.name not in there]
    odd = re.compile(r"\.partial|orbax-checkpoint-tmp|\.old$|\.lock$")
    within = [
        str(path.relative_to(place))
        for path in (place / "work" / OUT).rglob("*")
        if odd.search(path.name) and path != place / "work" / OUT / ".lock"
    ]
    return beside + within + [f"tmp/{path.name}" for path in (place / "tmp").iterdir()]


def _train(*own: str) -> tuple[str, ...]:
    shared = (
        *("--model", "model", "--data", "data.jsonl", "--output", OUT, "--steps", "8"),
        *("--batch-size", "2", "--learning-rate", "1e-2", "--save-every", "3", "--keep", str(KEEP)),
        *("--eval-data", "data.jsonl", "--eval-every", "4", "--eval-questions", "2"),
        *("--wandb-mode", "disabled"),
    )
    return (*shared, *own)


def _generate(*own: str) -> Case:
    args = ("--model", "model", "--prompt-file", "prompts.jsonl", "--output", OUT, *own)
    return Case("generate.py", args, rows_kept, rows_result)


def _convert(source: str, to: str) -> Case:
    args = (source, OUT, "--to", to, "--no-verify")
    return Case("convert_params.py", args, directory_kept, _stable, source)


_SCORE = ("--model", "model", "--input", "texts.jsonl", "--output", OUT, "--batch-size", "4")
CASES = {
    "generate": _generate("--batch-size", "4"),
    "generate, sampled": _generate("--temperature", "1", "--num-samples", "2"),
    "generate, beams": _generate("--num-beams", "2", "--num-return-sequences", "2"),
    "score": Case(
        "score.py", (*_SCORE, "--top-candidates", "2", "--skip-bad"), rows_kept, rows_result
    ),
    "convert, hf to native": _convert("model", "native"),
    "convert, native to hf": _convert("native", "hf"),
    "convert, hf to neox": _convert("model", "neox"),
    "train": Case("train.py", _train(), training_kept, training_result),
    "train, LoRA": Case("train.py", _train("--lora-rank", "2"), training_kept, training_result),
}
