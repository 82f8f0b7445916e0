"""neox-eqx generate as its user runs it: what it prints, what it writes, and how it says no."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from neox_eqx.cli import generate
from neox_eqx.command_line import run
from tests.commands import many
from tests.generation.completions import theirs
from tests.text.checkpoints import byte_level, save_checkpoint

ROOT = Path(__file__).parents[2]
KEYS = "prompt prompt_tokens sample seed text tokens finish_reason logprob score".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPTNeoXForCausalLM, Tokenizer]:
    directory = tmp_path_factory.mktemp("checkpoint")
    tokenizer = byte_level()
    return directory, save_checkpoint(directory, tokenizer), tokenizer


@pytest.fixture(scope="module")
def model(saved: tuple[Path, GPTNeoXForCausalLM, Tokenizer]) -> Path:
    return saved[0]


def call(*args: str | Path) -> str:
    """What the command prints, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(generate.main, generate.Options, [str(arg) for arg in args])
    return out.getvalue()


def command(*args: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, ROOT / "generate.py", *args]
    return subprocess.run(program, capture_output=True, text=True, **settings)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_command_writes_the_tokens_of_transformers(
    saved: tuple[Path, GPTNeoXForCausalLM, Tokenizer], tmp_path: Path
) -> None:
    directory, hf, tokenizer = saved
    prompts = ["Two cats", "안녕하세요", "👍🏽"]
    output = tmp_path / "out.jsonl"
    ran = command(
        *("--model", directory, "--output", output, "--max-new-tokens", "12"),
        *("--prompt", *prompts),
        cwd=tmp_path,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    ids = [tuple(tokenizer.encode(prompt).ids) for prompt in prompts]
    expected, logprobs = theirs(hf, ids, 12, [1])
    rows = rows_of(output)
    assert [row["prompt"] for row in rows] == prompts
    assert [tuple(row["prompt_tokens"]) for row in rows] == ids
    assert [tuple(row["tokens"]) for row in rows] == expected
    assert [row["logprob"] for row in rows] == pytest.approx(logprobs, abs=1e-4)


def test_rows_have_the_documented_keys_in_the_order_of_the_prompts(
    model: Path, tmp_path: Path
) -> None:
    prompts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"prompt": "Two cats and three dogs", "max_new_tokens": 3},
        {"prompt": "One", "num_samples": 2, "temperature": 1.5, "seed": 8},
        {"prompt": ""},
        {"prompt": "Two", "num_samples": 2, "temperature": 0.7, "top_p": 0.5, "min_p": 0.1},
        {"prompt": "Six", "num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"},
    ]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = ("--seed", "5", "--max-new-tokens", "7", "--prompt", "first")
    printed = call("--model", model, *shared, "--prompt-file", prompts, "--output", output)
    assert printed == ""
    rows = rows_of(output)
    assert all(list(row) == KEYS for row in rows)
    assert [(row["prompt"], row["sample"], row["seed"]) for row in rows] == [
        ("first", 0, 5),
        ("Two cats and three dogs", 0, 5),
        ("One", 0, 8),
        ("One", 1, 8),
        ("", 0, 5),
        ("Two", 0, 5),
        ("Two", 1, 5),
        ("Six", 0, 5),
        ("Six", 1, 5),
    ]
    for row in rows:
        assert len(row["tokens"]) <= (3 if "dogs" in row["prompt"] else 7)
        assert row["finish_reason"] == ("eos" if row["tokens"][-1] == 1 else "length")
        assert isinstance(row["text"], str) and row["logprob"] < 0
        assert (row["score"] is None) == (row["prompt"] != "Six")
    assert rows[-2]["score"] > rows[-1]["score"]


def test_a_text_file_is_a_prompt_a_line_and_streaming_changes_no_output(
    model: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "in.txt"
    prompts.write_text("Two cats\n안녕하세요\nHow many animals\n")
    for own in (
        ["--max-new-tokens", "5"],
        ["--temperature", "1.3", "--num-samples", "2", "--batch-size", "2"],
    ):
        args = ["--model", model, "--prompt-file", prompts, *own]
        live, at_once = call(*args, "--stream"), call(*args, "--no-stream")
        assert live == at_once == call(*args)
        output = tmp_path / "out.jsonl"
        call(*args, "--output", output)
        rows = rows_of(output)
        assert live == "".join(f"{row['prompt']}{row['text']}\n\n" for row in rows)


def test_generation_config_is_used_and_options_win_over_it(model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(model, tmp_path / "model")
    defaults = {"do_sample": True, "temperature": 1.4, "max_new_tokens": 4, "eos_token_id": 1}
    (directory / "generation_config.json").write_text(json.dumps(defaults))
    output = tmp_path / "out.jsonl"

    def tokens(source: Path, *own: str) -> list[list[int]]:
        call("--model", source, "--prompt", "Two", "--output", output, *own)
        return [row["tokens"] for row in rows_of(output)]

    many = ("--num-samples", "3")
    sampled = tokens(directory, *many)
    assert sampled == tokens(model, *many, "--temperature", "1.4", "--max-new-tokens", "4")
    assert len({tuple(row) for row in sampled}) == 3
    assert tokens(directory, "--temperature", "0") == tokens(model, "--max-new-tokens", "4")


def test_a_reader_that_leaves_ends_it_quietly(model: Path) -> None:
    args = ["--model", model, "--prompt", "Two\ncats", "--num-samples", "40"]
    args += ["--temperature", "1"]
    program = [sys.executable, ROOT / "generate.py", *args]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(program, **pipes, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "Two\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def mistakes(model: Path, place: Path) -> dict[str, tuple[list[str | Path], str]]:
    """Command lines that are wrong, and a part of the one line that answers each."""
    ask = ["--model", model, "--prompt", "Two"]
    to_file = [*ask, "--output", place / "out.jsonl"]

    def with_files(name: str, files: dict[str, str]) -> list[str | Path]:
        directory = shutil.copytree(model, place / name)
        for file, content in files.items():
            (directory / file).write_text(content)
        return ["--model", directory, "--prompt", "Two", "--output", place / "out.jsonl"]

    def with_line(line: str) -> list[str | Path]:
        path = place / f"{len(list(place.iterdir()))}.jsonl"
        path.write_text('{"prompt": "a"}\n' + line + "\n")
        return [*to_file[:2], "--prompt-file", path, "--output", place / "out.jsonl"]

    def bias_file(content: str) -> Path:
        path = place / f"{len(list(place.iterdir()))}.json"
        path.write_text(content)
        return path

    nan = with_files("nan", {})
    tensors = load_file(nan[1] / "model.safetensors")
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, nan[1] / "model.safetensors", metadata={"format": "pt"})

    no_tokenizer = with_files("no-tokenizer", {})
    (no_tokenizer[1] / "tokenizer.json").unlink()
    config = {"do_sample": True}
    return {
        "unknown option": (
            [*to_file, "--top-q", "1"],
            "there is no option --top-q; did you mean --top-p?",
        ),
        "no number": ([*to_file, "--top-k", "x"], "--top-k: 'x' is not a whole number"),
        "out of range": ([*to_file, "--top-p", "2"], "top_p must be a number from 0 to 1, not 2.0"),
        "negative": ([*to_file, "--max-new-tokens", "-1"], "at least 1, not -1"),
        "nan option": ([*to_file, "--temperature", "nan"], "temperature must be a number"),
        "no batch": ([*to_file, "--batch-size", "0"], "batch_size must be"),
        "dtype": ([*to_file, "--dtype", "int8"], "invalid choice 'int8'"),
        "quantize": ([*to_file, "--quantize", "int3"], "invalid choice 'int3'"),
        "no prompt": (["--model", model], "no prompt; give --prompt TEXT or --prompt-file FILE"),
        "no model": (["--model", place / "absent", *ask[2:]], "absent: no such directory"),
        "no checkpoint": (
            ["--model", place, *ask[2:]],
            "config.json: cannot be read: No such file",
        ),
        "empty model": (["--model", "", *ask[2:]], "the model's name is empty"),
        "long model": (["--model", "x" * 5000, *ask[2:]], "xxx: cannot be a directory: File name"),
        "prompt twice": (
            [*to_file, "--prompt", "Three"],
            "--prompt is given 2 times; give it once",
        ),
        "mesh": ([*to_file, "--mesh", "data:2"], "the mesh 'data:2' is neither auto nor"),
        "mesh too large": ([*to_file, "--mesh", "data=3000"], "a mesh of 3000 devices, and there"),
        "model is a file": (["--model", model / "config.json", *ask[2:]], "is a file; give the"),
        "broken config": (with_files("config", {"config.json": "{"}), "config.json: is not valid"),
        "broken defaults": (
            with_files("defaults", {"generation_config.json": "[]"}),
            "generation_config.json: holds list, not a JSON object",
        ),
        "wrong default": (
            with_files("wrong", {"generation_config.json": json.dumps(config | {"top_k": "7"})}),
            "top_k must be a whole number of at least 0, not '7'",
        ),
        "wrong max_length": (
            with_files("length", {"generation_config.json": '{"max_length": "7"}'}),
            "max_length must be a whole number of at least 1, not '7'",
        ),
        "no tokenizer": (no_tokenizer, "no-tokenizer: holds no tokenizer"),
        "broken tokenizer": (
            with_files("tokenizer", {"tokenizer.json": "{}"}),
            "tokenizer.json: is not a tokenizer",
        ),
        "nan parameters": (
            nan,
            "error: the model's logits for token 1 of the completion are NaN or infinite: the "
            "checkpoint's weights hold NaN",
        ),
        "output in no directory": (
            [*ask, "--output", place / "absent" / "out.jsonl"],
            "out.jsonl: cannot be written: No such file or directory",
        ),
        "output is a directory": ([*ask, "--output", place], "is a directory; name a file"),
        "prompt too long": (
            [*to_file[:2], "--prompt", "7" * 70, *to_file[4:]],
            "the prompt has 70 tokens, but the model has 64 positions; shorten the prompt",
        ),
        "prompt too long to print": (
            [*to_file[:2], "--prompt", "7" * 70],
            "the prompt has 70 tokens, but the model has 64 positions; shorten the prompt",
        ),
        "no prompt file": (
            [*to_file[:2], "--prompt-file", place / "absent.txt", *to_file[4:]],
            "absent.txt: cannot be read",
        ),
        "line without prompt": (with_line('{"text": "a"}'), 'line 2: needs a "prompt"'),
        "broken line": (with_line("{"), "line 2: is not valid JSON"),
        "line option": (with_line('{"prompt": "a", "topk": 3}'), "line 2: unknown option topk"),
        "line range": (with_line('{"prompt": "a", "top_p": 3}'), "line 2: top_p must be a number"),
        "line type": (
            with_line('{"prompt": "a", "max_new_tokens": "3"}'),
            "line 2: max_new_tokens must be a whole number of at least 1, not '3'",
        ),
        "wrong penalty": (
            with_files("penalty", {"generation_config.json": '{"repetition_penalty": "2"}'}),
            "repetition_penalty must be a number above 0 and at most",
        ),
        "line samples": (
            with_line('{"prompt": "a", "num_samples": null}'),
            "line 2: num_samples must be a whole number of at least 1, not None",
        ),
        "line of text": (
            with_line('{"prompt": "a", "bad_words": "b"}'),
            "line 2: bad_words must be a list of texts or lists of token ids, not 'b'",
        ),
        "line of ids": (
            with_line('{"prompt": "a", "stop": [[1, "2"]]}'),
            "line 2: an entry of stop: '2' is not a token id",
        ),
        "min above max": (
            [*to_file, "--min-new-tokens", "9", "--max-new-tokens", "8"],
            "min_new_tokens is 9, but the text has at most 8 new tokens",
        ),
        "foreign id": ([*to_file, "--suppress-tokens", "3", "9999"], "token id 9999 is not in the"),
        "empty stop": ([*to_file, "--stop", ""], "stop: '' is empty"),
        "stop twice": ([*to_file, "--stop", "a", "--stop", "b"], "--stop is given 2 times"),
        "no bias file": (
            [*to_file, "--logit-bias", place / "absent"],
            "absent: cannot be read: No such file or",
        ),
        "bias of a text": (
            [*to_file, "--logit-bias", bias_file('{"3": 1, "x7": 2}')],
            "line 1: 'x7' is not a token id",
        ),
        "bias without number": (
            [*to_file, "--logit-bias", bias_file('{"3": 1,\n "7": "2"}')],
            "line 2: '2' is not a number",
        ),
        "bias given twice": (
            [*to_file, "--logit-bias", bias_file('{"7": 1,\n "3": 1,\n "07": 2}')],
            "line 3: the token id 7 is there a second time",
        ),
        "bias beyond float32": (
            [*to_file, "--logit-bias", bias_file('{"7": 1e39}')],
            "logit_bias: the bias of 7 must be a number within",
        ),
        "bias of a foreign id": (
            [*to_file, "--logit-bias", bias_file('{"3000": 1}')],
            "logit_bias: token id 3000 is not in the model's vocabulary",
        ),
        "endless bias file": (
            [*to_file, "--logit-bias", "/dev/zero"],
            "has more than 10000000 bytes",
        ),
        "broken bias file": ([*to_file, "--logit-bias", bias_file("{")], "is not valid JSON"),
        "bias file of a list": (
            [*to_file, "--logit-bias", bias_file("[3]")],
            "holds no JSON object",
        ),
        "line unicode": (with_line('{"prompt": "\\ud83d"}'), "is not valid Unicode"),
    }


def test_every_mistake_is_answered_with_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path
) -> None:
    cases = mistakes(model, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    commands = [args for args, _ in cases.values()]
    answers = zip(cases.items(), many("generate", commands), strict=True)
    for (name, (_, message)), (status, out, error) in answers:
        assert (status, out) == (2, ""), (name, error)
        assert error.startswith("neox-eqx generate: error: ") and error.count("\n") == 1, name
        assert message in error, name
    assert sorted(tmp_path.rglob("*")) == before
