"""neox-eqx score as its user runs it: what it writes, killed or not, and how it says no."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from neox_eqx.cli.score import subject
from neox_eqx.scoring.encode import encode_text
from neox_eqx.scoring.texts import score_texts
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.resume import partial_rows
from tests.commands import many
from tests.sharding.processes import finish, start
from tests.text.checkpoints import byte_level, save_checkpoint

ROOT = Path(__file__).parents[2]
SCORE = ("-m", "neox_eqx", "score")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# Dies as it has its 20th row: from outside, a process that writes thousands a second is met late.
KILLED = """
import os, signal, sys
from neox_eqx.cli import score
from neox_eqx.command_line import run
from neox_eqx.text import resume

class Rows(resume.PartialRows):
    def add(self, place, row):
        super().add(place, row)
        if len(self.starts) == 20:
            os.kill(os.getpid(), signal.SIGKILL)

resume.PartialRows = Rows
run(score.main, score.Options)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(directory, byte_level())
    return directory


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_killed_run_goes_on_with_what_it_has_and_ends_as_if_it_had_not_been(
    model: Path, tmp_path: Path
) -> None:
    texts = [f"Two cats and {number} dogs went home." for number in range(60)]
    lines = [json.dumps({"text": text, "id": 7}) for text in texts]
    lines[2:4] = ["", '{"prompt": "How many ", "completion": "animals?"}']
    lines.append('{"text": ""}')
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    partial = tmp_path / "out.jsonl.partial"
    command = ["--model", model, "--input", source, "--output", output, "--skip-bad"]
    command += ["--batch-size", "1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], env=ENVIRONMENT)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    header, *written = partial.read_bytes().splitlines(keepends=True)
    assert len(written) == 20
    # What is there is taken and not scored again, so a row that is altered stays altered.
    place, row = written[5].split(b"\t")
    written[5] = place + b"\t" + json.dumps({**json.loads(row), "num_tokens": -1}).encode() + b"\n"
    partial.write_bytes(b"".join([header, *written]) + b'7\t{"tokens": [')
    other_input = tmp_path / "other.txt"
    other_input.write_text("Two cats\n")
    other_model = tmp_path / "model"
    shutil.copytree(model, other_model)
    tensors = load_file(model / "model.safetensors")
    tensors["gpt_neox.final_layer_norm.bias"] = tensors["gpt_neox.final_layer_norm.bias"][::-1]
    save_file(
        {name: tensor.copy() for name, tensor in tensors.items()},
        other_model / "model.safetensors",
        {"format": "pt"},
    )
    before = partial.read_bytes()
    refused = many(
        "score",
        [
            [*command, "--input", other_input],
            [*command, "--model", other_model],
            [*command, "--dtype", "bfloat16"],
            [*command, "--top-candidates", "1"],
        ],
    )
    others = ("input", "model", "model and another dtype", "number of candidates")
    for (status, _, error), other in zip(refused, others, strict=True):
        assert (status, error.count("\n")) == (2, 1), error
        assert f"out.jsonl.partial: has rows of another {other}; remove it, or" in error
    assert partial.read_bytes() == before and not output.exists()
    # Another batch size changes no row, and may be what the killed run needed.
    ((status, out, error),) = many("score", [[*command, "--batch-size", "16"]])
    assert (status, out) == (2, "") and "1 of 60 lines could not be scored" in error
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "model", "other.txt", "out.jsonl"]
    *rows, bad = rows_of(output)
    assert bad == {
        "finish_reason": "error",
        "error": f"{source}, line 61: the text is empty",
    }
    assert [row["num_tokens"] for row in rows].count(-1) == 1
    rows[int(place)]["num_tokens"] = json.loads(row)["num_tokens"]
    del lines[2]
    expected = score_texts(
        TextGenerator.load(model),
        [*texts[:2], ("How many ", "animals?"), *texts[4:]],
        batch_size=16,
    )
    for row, score in zip(rows, expected, strict=True):
        names = "tokens logprobs sum_logprob num_tokens is_greedy".split()
        prompt = ["prompt_tokens"] if score.prompt_tokens else []
        assert list(row) == prompt + names
        assert row["tokens"] == list(score.tokens)
        assert row["sum_logprob"] == pytest.approx(score.sum_logprob, abs=1e-4)
        assert row["logprobs"] == [*map(_approximately, score.logprobs)]
        assert (row["num_tokens"], row["is_greedy"]) == (score.num_tokens, score.is_greedy)


def _approximately(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, abs=1e-5)


def test_every_mistake_is_answered_with_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path
) -> None:
    def given(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    good = given("good.txt", "Two cats\nand\n")
    cases = {
        "empty text": (
            given("a.txt", "Two\n\ncats\n"),
            "a.txt, line 2: the text is empty; --skip-bad scores the other lines",
        ),
        "no text": (given("b.txt", ""), "b.txt: holds no text"),
        "not UTF-8": (given("c.txt", b"a\n\xff\n"), "c.txt, line 2: is not UTF-8: "),
        "too long": (given("d.txt", "a\n" + "7" * 66), "d.txt, line 2: has 66 tokens, but the"),
        "broken": (given("e.jsonl", '{"text": "a"}\n{'), "e.jsonl, line 2: is not valid JSON"),
        "list": (given("f.jsonl", "[1]"), "f.jsonl, line 1: is not a JSON object"),
        "number": (given("g.jsonl", '{"text": 3}'), 'line 1: "text" must be a text, not 3'),
        "half": (
            given("h.jsonl", '\n{"prompt": "a"}'),
            'h.jsonl, line 2: needs either "text" or "prompt" and "completion"',
        ),
        "both": (given("i.jsonl", '{"prompt": "a", "completion": "b", "text": "c"}'), "either"),
        "no completion": (
            given("j.jsonl", '{"prompt": "a", "completion": ""}'),
            "j.jsonl, line 1: the completion is empty",
        ),
        "surrogate": (
            given("k.jsonl", '{"text": "\\ud83d"}'),
            "line 1: the text '\\ud83d' is not valid",
        ),
        "absent": (tmp_path / "l.txt", "l.txt: cannot be read: "),
        "directory": (tmp_path, "cannot be read: "),
    }
    output = tmp_path / "out.jsonl"
    shared = ["--model", model, "--output", output]
    commands = [[*shared, "--input", path] for path, _ in cases.values()]
    messages = [message for _, message in cases.values()]
    options = {
        "--batch-size 0": "--batch-size must be at least 1",
        "--top-candidates -1": "--top-candidates at least 0",
        "--top-candidates 999": "top_candidates must be a whole number from 0 to 310, not 999",
        "--output /absent/out": "/absent/out: cannot be written: No such file",
        f"--output {tmp_path}": "is a directory; name a file",
        "--model ./absent": "./absent: no such directory",
        "--mesh data=3x": "the mesh 'data=3x' is neither",
        "--candidates 3": "there is no option --candidates; did you mean --top-candidates?",
    }
    commands += [[*shared, "--input", good, *option.split(" ")] for option in options]
    commands.append(["--input", good, "--output", output])
    messages += [*options.values(), "--model"]
    bad = given("m.jsonl", '{\n{"text": ""}\n')
    commands.append([*shared, "--input", bad, "--skip-bad"])
    messages.append("no line can be scored; the first is ")
    before = sorted(tmp_path.iterdir())
    for (status, out, error), message in zip(many("score", commands), messages, strict=True):
        assert (status, out) == (2, ""), (message, error)
        assert error.startswith("neox-eqx score: error: ") and error.count("\n") == 1, error
        assert message in error, error
    assert sorted(tmp_path.iterdir()) == before


def test_lines_that_cannot_be_scored_have_an_error_in_their_row_and_the_others_a_score(
    model: Path, tmp_path: Path
) -> None:
    lines = [
        b'{"text": "Two cats"}',
        b'{"text": ""}',
        b'{"text": "Two',
        b"",
        b'{"text": "\xff"}',
        b'{"txt": "Two"}',
        b'{"text": "\\ud83d"}',
        b'{"prompt": "Two", "completion": 3}',
        b'{"text": "' + b"7" * 66 + b'"}',
        b'{"prompt": "Two", "completion": " cats"}',
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    errors = {
        2: "the text is empty",
        3: "is not valid JSON",
        5: "is not UTF-8",
        6: 'needs either "text"',
        7: "the text '\\ud83d' is not valid Unicode",
        8: '"completion" must be a text, not 3',
        9: "has 66 tokens, but the model has 64 positions",
    }
    command = ["--model", model, "--input", source, "--output", output, "--skip-bad"]
    first, again = many("score", [command, command])
    for status, out, error in (first, again):
        assert (status, out) == (2, "")
        assert error == (
            "neox-eqx score: error: 7 of 9 lines could not be scored and have an error in their "
            f"rows, the first: {source}, line 2: the text is empty\n"
        )
    rows = rows_of(output)
    for row, (number, message) in zip(rows[1:-1], errors.items(), strict=True):
        assert row["finish_reason"] == "error" and row.keys() == {"finish_reason", "error"}
        assert row["error"].startswith(f"{source}, line {number}: {message}")
    texts = ["Two cats", ("Two", " cats")]
    for row, score in zip(
        [rows[0], rows[-1]], score_texts(TextGenerator.load(model), texts), strict=True
    ):
        assert row["sum_logprob"] == pytest.approx(score.sum_logprob, abs=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


def test_on_several_hosts_the_first_writes_what_one_process_writes_and_goes_on(
    model: Path, tmp_path: Path
) -> None:
    directories = [tmp_path / str(number) for number in range(2)]
    for directory in directories:
        directory.mkdir()
        (directory / "in.txt").write_text("".join(f"{n} cats and dogs\n" for n in range(9)))
    command = ["--model", model, "--input", directories[0] / "in.txt", "--top-candidates", "1"]
    (answer,) = many(
        "score", [[*command, "--output", tmp_path / "alone.jsonl", "--mesh", "model=1"]]
    )
    assert answer == (0, "", "")
    alone = rows_of(tmp_path / "alone.jsonl")
    # What one process without a mesh left, two with one take.
    generator = TextGenerator.load(model)
    texts = (directories[0] / "in.txt").read_text().splitlines()
    pairs = [encode_text(generator, text) for text in texts]
    with partial_rows(directories[0] / "out.jsonl") as partial:
        partial.begin(subject(generator.model, texts, pairs, 1))
        partial.add(4, {**alone[4], "num_tokens": -1})
    on_two = [*SCORE, *command[:2], "--input", "in.txt", "--output", "out.jsonl"]
    options = ["--top-candidates", "1", "--mesh", "data=2,model=2", "--batch-size", "3"]
    ended = finish(start([*on_two, *options], 2, directories))
    assert [(one.status, one.out) for one in ended] == [(0, "")] * 2, ended
    assert [path.name for path in directories[1].iterdir()] == ["in.txt"]
    rows = rows_of(directories[0] / "out.jsonl")
    assert [row["num_tokens"] == -1 for row in rows] == [number == 4 for number in range(9)]
    for row, expected in zip(rows, alone, strict=True):
        assert row["tokens"] == expected["tokens"]
        assert row["sum_logprob"] == pytest.approx(expected["sum_logprob"], abs=1e-4)
        likeliest, others = (
            [one and one[0]["token"] for one in own["candidates"]] for own in (row, expected)
        )
        assert likeliest == others
