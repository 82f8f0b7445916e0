"""Fine-tunes the demo model on kinds of word problems that it does not know.

python demo/finetune.py --output RUN                   # all parameters
python demo/finetune.py --output RUN --lora-rank 16    # LoRA on all projections
"""

import dataclasses
import json
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from pretrain import EXAM_SIZE, exam_problems
from word_problems import KINDS, NEW_KINDS, Problem, problems

from neox_eqx import DEMO_MODEL
from neox_eqx.command_line import run
from neox_eqx.errors import InputError
from neox_eqx.model.adapt import TARGETS
from neox_eqx.training.log.metrics_file import read_metrics
from neox_eqx.training.run.fine_tune import fine_tune
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.update.tuning import Tuning


@dataclasses.dataclass(frozen=True)
class Options:
    """Teach the demo model new kinds of word problems, and print what it solves before and after.

    The problems are written to `output`/train.jsonl and held_out.jsonl, and `output`/run is a run
    of `neox-eqx train` on them: interrupted, it goes on when this is run again.
    """

    output: Path
    """Directory of the problems and of the run."""
    kinds: tuple[str, ...] = NEW_KINDS
    """Kinds of problems, of those in demo/word_problems.py."""
    problems: int = 2000
    """To learn from."""
    held_out: int = EXAM_SIZE
    """Problems to examine it on before and after, 500 at most; none of them is learnt from."""
    steps: int = 400
    """Updates of what is trained."""
    batch_size: int = 16
    """Problems in an update."""
    learning_rate: float | None = None
    """At its peak; 1e-3 if not given, and 1e-2 for LoRA."""
    lora_rank: int = 0
    """Train only matrices of this rank that are added to the layers' own; 0 to train all."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds {unknown} are not there; choose from {', '.join(KINDS)}")
        if not 1 <= self.held_out <= EXAM_SIZE or self.problems < 1:
            raise InputError(f"problems must be positive, and held_out from 1 to {EXAM_SIZE}")


def main(options: Options) -> None:
    training = training_options(options)
    exam = exam_problems(options.kinds)
    lessons = problems(options.kinds, 0, without={problem.question for problem in exam})
    write(training.data, islice(lessons, options.problems))
    write(options.output / "held_out.jsonl", exam[: options.held_out])
    began = time.monotonic()
    fine_tune(training)
    seconds = time.monotonic() - began
    shares = [row["exact_match"] for row in read_metrics(training.output) if "exact_match" in row]
    print(
        f"exact match on {options.held_out} held-out problems: {shares[0]:.1%} before, "
        f"{shares[-1]:.1%} after {options.steps} steps; {seconds:.0f} s"
    )


def training_options(options: Options) -> TrainingOptions:
    """What `neox-eqx train` is to be told."""
    rank = options.lora_rank
    tuning = Tuning()
    if rank != 0:
        tuning = Tuning(lora_rank=rank, lora_alpha=2.0 * rank, lora_targets=tuple(TARGETS))
    return TrainingOptions(
        model=str(DEMO_MODEL),
        data=options.output / "train.jsonl",
        eval_data=options.output / "held_out.jsonl",
        output=options.output / "run",
        steps=options.steps,
        warmup_steps=options.steps // 10,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate or (1e-2 if rank else 1e-3),
        tuning=tuning,
        eval_every=options.steps,
        wandb_mode="disabled",
    )


def write(path: Path, lines: Iterable[Problem]) -> None:
    """A line of {"question", "answer"} for each problem."""
    text = "".join(json.dumps(dataclasses.asdict(problem)) + "\n" for problem in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    run(main, Options)
