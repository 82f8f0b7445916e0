"""The bundled demo model: small, as good as the README says, and transformers' own in format."""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.word_problems import KINDS, NEW_KINDS, PRETRAINING_KINDS, final_result, problems
from neox_eqx import DEMO_MODEL, TextGenerator

ROOT = Path(__file__).parents[2]


def evaluate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/train_demo_model.py", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def exact_matches(report: str) -> tuple[int, int]:
    right, asked = re.search(r"exact match: (\d+) / (\d+)", report).groups()
    return int(right), int(asked)


def test_takes_at_most_4_megabytes() -> None:
    assert sum(file.stat().st_size for file in DEMO_MODEL.iterdir()) <= 4_000_000


def test_answers_nine_of_ten_held_out_problems() -> None:
    right, asked = exact_matches(evaluate("--evaluate").stdout)
    assert asked == 500 and right >= 450


@pytest.mark.slow
def test_answers_in_int8_within_a_point_as_many() -> None:
    right, _ = exact_matches(evaluate("--evaluate").stdout)
    right_in_int8, asked = exact_matches(evaluate("--evaluate", "--quantize", "int8").stdout)
    assert asked == 500 and abs(right_in_int8 - right) <= 5


@pytest.mark.slow
def test_kinds_kept_for_fine_tuning_are_new_to_it() -> None:
    for kind in NEW_KINDS:
        right, asked = exact_matches(evaluate("--evaluate", "--kinds", kind).stdout)
        assert asked == 500 and right < 100


def test_transformers_gives_the_same_completions() -> None:
    questions = [problem.question for problem in islice(problems(PRETRAINING_KINDS, 77), 16)]
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    completions = TextGenerator.load(DEMO_MODEL).generate(questions)
    for question, completion in zip(questions, completions, strict=True):
        inputs = tokenizer(question, return_tensors="pt")
        expected = model.generate(**inputs)[0, inputs.input_ids.shape[1] :]
        assert list(completion.tokens) == expected.tolist()
        assert completion.finish_reason == "eos"
        assert completion.text.startswith("\n") and final_result(completion.text)


def test_auto_tokenizer_gives_the_ids_of_tokenizer_json() -> None:
    ours = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(DEMO_MODEL)
    texts = [f"{p.question}\n{p.answer}" for p in islice(problems(tuple(KINDS), 78), 200)]
    texts += ["사과 3개 👩‍👧 e\u0301 \t x", "1234567890 a1b22", "<|endoftext|>7"]
    for text in texts:
        assert ours.encode(text).ids == theirs(text).input_ids


def test_each_digit_is_a_token_and_any_text_survives() -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    for text in ("in 1234 + 56 x 7890", "사과 3개 👩‍👧"):
        encoding = tokenizer.encode(text)
        assert tokenizer.decode(encoding.ids) == text
        assert not any(re.search(r"\d.|.\d", token) for token in encoding.tokens)
    assert tokenizer.token_to_id("<|endoftext|>") == 0


def test_there_are_five_questions_to_try_it_on() -> None:
    questions = (DEMO_MODEL / "questions.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(questions)) == 5 and all(question.endswith("?") for question in questions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to do"),
        (("--kinds", "riddle"), "riddle"),
        (("--steps", "5"), "steps"),
        (("--output", "scripts"), "not empty"),
        (("--evaluate", "--quantize", "int3"), "--quantize"),
        (("--evaluate", "--model", "no/such/directory/at/all"), "no/such/directory"),
    ],
)
def test_wrong_options_end_in_one_line_and_status_2(options: tuple[str, ...], message: str) -> None:
    ended = evaluate(*options)
    assert ended.returncode == 2
    assert message in ended.stderr and ended.stderr.count("\n") == 1
