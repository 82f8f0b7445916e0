"""The valid files that cases begin with: a tiny model in every layout, and what goes with it."""

import contextlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from neox_eqx.text.resume import partial_rows
from neox_eqx.training.run.checkpoints import Checkpoints
from tests.fuzz import readers
from tests.fuzz.case import Case, Edit
from tests.fuzz.runner import Runner
from tests.fuzz.tiny_model import (
    write_adapter,
    write_bin,
    write_dressed,
    write_model,
    write_sentence_piece,
    write_sharded,
    write_soft_prompt,
)


def _write_texts(directory: Path) -> None:
    """What most commands read beside a model."""
    (directory / "texts.txt").write_text("Tom has 3 apples.\nTwo cats went home.\n")
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "2?", "answer": "2"}]
    _write_lines(directory / "data.jsonl", *rows)
    said = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]
    _write_lines(directory / "messages.jsonl", {"messages": said[:1]})
    _write_lines(directory / "prompts.jsonl", {"prompt": "Tom has", "stop": ["e"]})
    _write_lines(directory / "chats.jsonl", {"messages": said}, {"messages": said})


def _write_prompts(directory: Path) -> None:
    write_model(directory)
    (directory / "prompts.txt").write_text("Tom has\nTwo cats\n")
    options = {
        **{"temperature": 0.5, "top_k": 3, "seed": 1, "num_samples": 2, "max_new_tokens": 2},
        **{"logit_bias": {"3": 1.5}, "bad_words": ["x", [5, 6]], "suppress_tokens": [7]},
        **{"early_stopping": "never", "num_beams": 1, "exponential_decay_length_penalty": [1, 1.1]},
    }
    said = [{"role": "user", "content": "How many?", "context": "Two cats."}]
    _write_lines(directory / "prompts.jsonl", {"prompt": "Tom"}, {"prompt": "Two", **options})
    _write_lines(directory / "prompts.messages.jsonl", {"messages": said, "seed": 2})
    (directory / "scored.txt").write_text("Tom has 3 apples.\nTwo cats went home.\n")
    _write_lines(
        directory / "scored.jsonl", {"text": "Two"}, {"prompt": "Tom", "completion": " has"}
    )
    (directory / "bias.json").write_text(json.dumps({"3": 1.5, "4": -100, "511": 0}))


def _write_data(directory: Path) -> None:
    """Training data in each of its forms."""
    write_model(directory)
    rows = [{"instruction": f"Add {n}.", "input": "1", "output": f"{n + 1}"} for n in range(3)]
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Two."}]
    _write_lines(directory / "data.rows.jsonl", *rows)
    _write_lines(directory / "data.text.jsonl", {"text": "Two cats."}, {"text": "Three dogs."})
    _write_lines(directory / "data.sharegpt.jsonl", {"conversations": turns})
    (directory / "data.array.json").write_text(json.dumps(rows))
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    pyarrow.parquet.write_table(table, directory / "data.parquet")


def _write_partial_rows(directory: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), partial_rows(directory / "out.jsonl") as rows:
        rows.begin(readers.SUBJECT)
        for place in range(2):
            rows.add(place, {"prompt": "Tom", "text": " has", "tokens": [5], "error": None})
        raise KeyboardInterrupt


def _write_run_files(directory: Path) -> None:
    out = directory / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / "run.json").write_text(json.dumps(readers.SETTINGS))
    _write_lines(out / "metrics.jsonl", {"step": 1, "loss": 2.5}, {"step": 1, "eval loss": None})


def _write_checkpoints(directory: Path) -> None:
    with Checkpoints(directory / "out" / "checkpoints", 2) as checkpoints:
        checkpoints.save(readers.state())


def _write_lines(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_bases(runner: Runner) -> None:
    """Makes all of them, those of other layouts and of runs with the project's own commands."""
    for name, write in (
        ("model", write_model),
        ("dressed", write_dressed),
        ("sentencepiece", write_sentence_piece),
        ("sharded", write_sharded),
        ("bin", partial(write_bin, is_zip=True)),
        ("old bin", partial(write_bin, is_zip=False)),
        ("adapter", write_adapter),
        ("soft prompt", write_soft_prompt),
        ("texts", _write_texts),
        ("prompts", _write_prompts),
        ("data", _write_data),
        ("partial rows", _write_partial_rows),
        ("run files", _write_run_files),
        ("checkpoints", _write_checkpoints),
    ):
        runner.add_base(name, write)
    for to in ("native", "neox"):
        _add_made(runner, to, "out", "model", "convert_params.py", *_CONVERT, "--to", to)
    for program, options in (("score.py", "--input"), ("generate.py", "--prompt-file")):
        _add_rows(runner, program, options)
    _add_made(runner, "run", "out", "out", "train.py", *TRAIN)


_CONVERT = ("model", "out", "--no-verify")
TRAIN = (
    *("--model", "model", "--data", "data.jsonl", "--output", "out", "--steps", "1"),
    *("--batch-size", "1", "--wandb-mode", "disabled"),
)


def _add_rows(runner: Runner, program: str, option: str) -> None:
    """The rows of a run that could not write its output as a whole."""
    args = ("--model", "model", option, "texts.txt", "--output", "out.jsonl")
    hindered = (Edit(".out.jsonl.partial", "directory"),)
    outcome = runner.run(Case("base", program, args, ("model", "texts"), hindered))
    rows = runner.directory / "out.jsonl.partial"
    assert outcome.status == 2 and rows.is_file(), outcome.stderr

    def write(directory: Path) -> None:
        write_model(directory)
        shutil.copy(rows, directory)

    runner.add_base(f"rows of {program}", write)


def _add_made(runner: Runner, name: str, made: str, kept: str, program: str, *args: str) -> None:
    """What a command makes of the model as a base, which has it as `kept`."""
    outcome = runner.run(Case("base", program, args, ("model", "texts")))
    assert outcome.status == 0, outcome.stderr

    def write(directory: Path) -> None:
        if kept != "model":
            shutil.copytree(runner.bases["model"], directory, dirs_exist_ok=True)
        shutil.copytree(runner.directory / made, directory / kept)

    runner.add_base(name, write)
