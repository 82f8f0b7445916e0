"""Times the training step beside a plain PyTorch loop on the same weights and batches.

python benchmarks/train.py --preset pythia-70m --batch-size 8 --length 256
python benchmarks/train.py --preset pythia-70m --profile    # what matrix products take
"""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import jax
from matrix_products import of_step, print_products, shares, timed
from step_profile import busy_seconds, print_busy
from trainer import Task

from neox_eqx import GPTNeoX, GPTNeoXConfig, InputError
from neox_eqx.checkpoint.save import save
from neox_eqx.command_line import run
from neox_eqx.presets import preset
from neox_eqx.sizes import size_text
from neox_eqx.training.update.recipe import Recipe

PROGRAMS = {"neox_eqx": "our_trainer.py", "PyTorch": "torch_trainer.py"}
LEAST_SPEED, MOST_MEMORY = 1.0, 0.7


@dataclasses.dataclass(frozen=True)
class Options:
    """Time training in float32 and its peak memory, ours and PyTorch's in turn.

    Each system has a process of its own, loads the same checkpoint of random weights, and takes
    the same steps of AdamW with clipping; their losses are compared.
    """

    preset: str = "pythia-70m"
    """Shape of the model."""
    layers: int | None = None
    """Layers, if not the preset's."""
    vocab_size: int | None = None
    """Tokens of the vocabulary, if not the preset's."""
    batch_size: int = 8
    """Rows of a step."""
    length: int = 256
    """Tokens of each row."""
    rounds: int = 5
    """Timed rounds after one to warm up; the systems take turns."""
    steps: int = 2
    """Of a round; a step's time is their mean."""
    remat: bool = Recipe.remat
    """Ours computes each layer a second time for its gradient, and holds less."""
    loss_chunk: int = Recipe.loss_chunk
    """Tokens of each row whose logits ours has at a time."""
    fused: bool = False
    """Ask PyTorch for its fused AdamW, which a plain loop does not."""
    profile: bool = False
    """Show what our step's threads are at, and time its matrix products alone, by JAX and by
    PyTorch."""
    json: Path | None = None
    """Write the figures here too."""

    def __post_init__(self) -> None:
        sizes = (self.batch_size, self.rounds, self.steps, self.loss_chunk)
        if min(sizes) < 1 or self.length < 2:
            raise InputError("sizes, rounds and steps must be at least 1, and --length at least 2")
        if self.json and not self.json.parent.is_dir():
            raise InputError(f"{self.json}: no such directory to write to")


def main(options: Options) -> None:
    config = _config(options)
    recipe = Recipe(
        steps=(options.rounds + 1) * options.steps,
        learning_rate=1e-3,  # enough that the losses tell if the updates differ
        remat=options.remat,
        loss_chunk=options.loss_chunk,
    )
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name, "model")
        save(GPTNeoX.init(config, key=jax.random.key(0)), checkpoint, companions=())
        task = Task(
            str(checkpoint),
            config.vocab_size,
            options.batch_size,
            options.length,
            dataclasses.asdict(recipe),
            options.fused,
        )
        answers = _interleaved(task, options)
    report = _report(options, answers)
    _print(report)
    if options.profile:
        report |= _profile(options, config, recipe, report["step_seconds"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


def _profile(
    options: Options, config: GPTNeoXConfig, recipe: Recipe, seconds: dict[str, float]
) -> dict[str, Any]:
    """What our step's threads are at, and its products beside PyTorch's; both are printed."""
    rows, length = options.batch_size, options.length
    busy = busy_seconds(config, rows, length, recipe, options.steps)
    print_busy(busy)
    products = timed(of_step(config, rows, length, recipe), options.rounds)
    print_products(products, *seconds.values())
    return {"busy": busy, "products": products, "shares": shares(products, *seconds.values())}


def _config(options: Options) -> GPTNeoXConfig:
    config = preset(options.preset)
    if options.length > config.context_length:
        raise InputError(f"--length is above the {config.context_length} tokens of the context")
    return dataclasses.replace(
        config,
        num_hidden_layers=options.layers or config.num_hidden_layers,
        vocab_size=options.vocab_size or config.vocab_size,
    )


class _System:
    """A process that trains when it is told to."""

    def __init__(self, program: str, task: Task):
        self._program = program
        path = Path(__file__).with_name(program)
        self._process = subprocess.Popen(
            [sys.executable, path, json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, steps: int) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"{self._program} failed; it says why above")
        return json.loads(answer)

    def __enter__(self) -> "_System":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # which closes its stdin, and it ends


def _interleaved(task: Task, options: Options) -> dict[str, list[dict[str, Any]]]:
    """What each system answered in each round, after one to warm up."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    with contextlib.ExitStack() as stack:
        systems = {
            name: stack.enter_context(_System(program, task)) for name, program in PROGRAMS.items()
        }
        for _ in range(options.rounds + 1):
            for name, system in systems.items():
                answers[name].append(system.take(options.steps))
    return answers


def _report(options: Options, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds after the first; memory over all, with loading and compiling."""
    ours, theirs = PROGRAMS
    times = {name: [answer["seconds"] for answer in own] for name, own in answers.items()}
    seconds = {name: statistics.median(own[1:]) for name, own in times.items()}
    losses = {name: list(chain(*(each["losses"] for each in own))) for name, own in answers.items()}
    peaks = {name: own[-1]["peak_bytes"] for name, own in answers.items()}
    added = {name: peak - answers[name][-1]["before_bytes"] for name, peak in peaks.items()}
    pairs = zip(losses[ours], losses[theirs], strict=True)
    return {
        "options": dataclasses.asdict(options),
        "round_seconds": times,
        "step_seconds": seconds,
        "peak_bytes": peaks,
        "added_bytes": added,
        "speed_ratio": seconds[theirs] / seconds[ours],
        "memory_ratio": peaks[ours] / peaks[theirs],
        "added_memory_ratio": added[ours] / added[theirs],
        "loss_difference": max(abs(one / other - 1) for one, other in pairs),
        "losses": losses,
    }


def _print(report: dict[str, Any]) -> None:
    tokens = report["options"]["batch_size"] * report["options"]["length"]
    for name, seconds in report["step_seconds"].items():
        peak, added = report["peak_bytes"][name], report["added_bytes"][name]
        print(
            f"{name}: {seconds:.3f} s a step, {tokens / seconds:.0f} token/s\t"
            f"peak memory {size_text(peak)}, {size_text(added)} above the imports"
        )
    print(f"times faster than PyTorch: {report['speed_ratio']:.2f} (at least {LEAST_SPEED})")
    print(
        f"peak memory relative to PyTorch: {report['memory_ratio']:.2f} (at most {MOST_MEMORY}), "
        f"above the imports {report['added_memory_ratio']:.2f}"
    )
    print(f"largest relative difference of a loss: {report['loss_difference']:.1e}")


if __name__ == "__main__":
    run(main, Options)
