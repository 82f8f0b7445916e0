"""What is asked of an accelerator, the most important first, until the time is up.

python scripts/measure_accelerator.py --json accelerator.json
python scripts/measure_accelerator.py --rehearse          # small, on whatever is at hand

All that was measured is in the JSON file after each figure, so a run that is ended loses nothing.
"""

import os

# transformers takes memory of the same device, in processes of its own.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import dataclasses
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import ours
from ours import Form

from neox_eqx import PRESETS, InputError
from neox_eqx.command_line import run

FORMS: tuple[Form, ...] = (None, "int8", "int4")
LEAST = 30
"""Seconds that must be left for a figure to begin."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure tokens, bandwidth, generation, long prompts and training, beside transformers."""

    seconds: int = 480
    """Begin no figure after so long."""
    json: Path = Path("accelerator.json")
    """Write the figures here."""
    rehearse: bool = False
    """Small shapes and few tokens, to see that all of it runs."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: `copied` are bytes, `width` is that of the matrices that are multiplied,
    and `batch` the rows and their length in a step of training."""

    presets: tuple[str, ...] = ("pythia-410m", "pythia-1.4b", "pythia-6.9b")
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    prompt_len: int = 128
    gen_len: int = 64
    rounds: int = 3
    copied: int = 2**30
    width: int = 8192
    long: tuple[int, ...] = (2000, 8000)
    trained: str = "pythia-410m"
    batch: tuple[int, int] = (8, 2048)


SMALL = Sizes(
    presets=("pythia-14m",),
    batch_sizes=(1, 2),
    prompt_len=16,
    gen_len=4,
    rounds=1,
    copied=2**22,
    width=256,
    long=(600,),
    trained="pythia-14m",
    batch=(2, 64),
)


def main(options: Options) -> None:
    """Each figure is `{"name", "seconds", ...}`; `left_out` names what there was no time for."""
    if not options.json.absolute().parent.is_dir():
        raise InputError(f"--json {options.json}: no such directory to write to")
    sizes, start = SMALL if options.rehearse else Sizes(), time.perf_counter()
    report: dict[str, Any] = {"machine": machine.facts(), "figures": [], "left_out": []}
    for name, measure in _figures(sizes):
        began = time.perf_counter()
        if began - start > options.seconds - LEAST and not options.rehearse:
            report["left_out"].append(name)
            continue
        try:
            found = measure()
        except Exception as error:
            # One figure that fails, as for want of memory, leaves the others.
            found = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        gc.collect()
        report["figures"].append({"name": name, "seconds": time.perf_counter() - began} | found)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
        print(_line(report["figures"][-1]), flush=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"left out for want of time: {', '.join(report['left_out']) or 'nothing'}")


def _figures(sizes: Sizes) -> Iterator[tuple[str, Any]]:
    """Names and what measures them, the most important first."""
    best: dict[str, float] = {}

    def limits() -> dict[str, Any]:
        best["bandwidth"] = machine.bandwidth(sizes.copied)
        best["rate"] = machine.matrix_rate(sizes.width)
        return {"bytes_per_second": best["bandwidth"], "flops_per_second": best["rate"]}

    yield "limits", limits
    yield "tokens", lambda: {"equal_to_cpu": ours.equal_tokens(sizes.gen_len)}
    shape = {"prompt_len": sizes.prompt_len, "gen_len": sizes.gen_len, "rounds": sizes.rounds}
    for preset in sizes.presets:
        for batch in sizes.batch_sizes:
            for form in FORMS:
                name = f"{preset}, {batch} rows, {form or '16 bits'}"

                def generate(preset=preset, batch=batch, form=form) -> dict[str, Any]:
                    model = ours.model_of(preset, form)
                    found = ours.generation(model, batch_size=batch, **shape)
                    limit = found["step_bytes"] / best["bandwidth"]
                    return found | {"share_of_bandwidth": limit / found["step_seconds"]}

                yield name, generate
            for static in (False, True):
                name = f"{preset}, {batch} rows, transformers{', static' if static else ''}"
                task = {"config": PRESETS[preset].to_hf(), "batch_size": batch, "static": static}
                yield name, lambda task=task: _theirs(task | shape)
    yield "training", lambda: _training(sizes, best["rate"])
    for length in sizes.long:
        yield f"a prompt of {length} tokens", lambda length=length: _long(sizes, length)
        config = dataclasses.replace(
            PRESETS[sizes.presets[0]], max_position_embeddings=length + sizes.gen_len
        )
        task = {"config": config.to_hf(), "batch_size": 1, "static": False}
        task |= {"prompt_len": length, "gen_len": 2, "rounds": sizes.rounds}
        yield f"a prompt of {length} tokens, transformers", lambda task=task: _theirs(task)


def _long(sizes: Sizes, length: int) -> dict[str, Any]:
    model = ours.with_positions(sizes.presets[0], length + sizes.gen_len)
    return ours.generation(model, batch_size=1, prompt_len=length, gen_len=2, rounds=sizes.rounds)


def _training(sizes: Sizes, rate: float) -> dict[str, Any]:
    rows, length = sizes.batch
    config = PRESETS[sizes.trained]
    return ours.training(config, batch_size=rows, length=length, steps=3, rate=rate)


def _theirs(task: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own, whose memory is free again at its end."""
    program = Path(__file__).with_name("theirs.py")
    ended = subprocess.run(
        [sys.executable, program, json.dumps(task)], capture_output=True, text=True, timeout=240
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        return {"failed": lines[-1][:300]}
    return json.loads(ended.stdout.splitlines()[-1])


def _line(figure: dict[str, Any]) -> str:
    figures = {name: value for name, value in figure.items() if name not in ("name", "seconds")}
    said = (
        f"{k} {v:.4g}" if isinstance(v, float | int) else f"{k} {v}" for k, v in figures.items()
    )
    return f"{figure['name']} ({figure['seconds']:.0f} s): {', '.join(said)}"


if __name__ == "__main__":
    run(main, Options)
