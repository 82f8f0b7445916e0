"""The generated word problems: right, repeatable, and as many as asked for."""

import math
import re
from itertools import islice

import pytest

from demo.word_problems import (
    KINDS,
    NEW_KINDS,
    PRETRAINING_KINDS,
    Problem,
    distinct_problems,
    final_result,
    problems,
)


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def together(question: str) -> int:
    first, difference = numbers(question)
    return 2 * first + (-difference if "fewer" in question else difference)


def change(question: str) -> int:
    *_, paid = found = sorted(numbers(question))
    return paid - math.prod(found[:-1])


def bus(question: str) -> int:
    people, off, on, later = numbers(question)
    return people - off + on + later


# The result from the question's numbers alone, without the worked steps.
EXPECTED = {
    "gain": lambda question: sum(numbers(question)),
    "loss": lambda question: numbers(question)[0] - numbers(question)[1],
    "groups": lambda question: math.prod(numbers(question)),
    "sharing": lambda question: max(numbers(question)) // min(numbers(question)),
    "leftover": lambda question: max(numbers(question)) % min(numbers(question)),
    "change": change,
    "together": together,
    "bus": bus,
    "fence": lambda question: 2 * sum(numbers(question)),
    "weeks": lambda question: 7 * numbers(question)[0] + numbers(question)[1],
}


def some(kind: str, seed: int = 5, count: int = 300) -> list[Problem]:
    return list(islice(problems((kind,), seed), count))


@pytest.mark.parametrize("kind", KINDS)
def test_result_follows_from_the_numbers_in_the_question(kind: str) -> None:
    for problem in some(kind):
        assert int(problem.result) == EXPECTED[kind](problem.question), problem


@pytest.mark.parametrize("kind", KINDS)
def test_each_worked_step_is_a_true_equation_and_the_last_gives_the_result(kind: str) -> None:
    compute = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "x": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    for problem in some(kind):
        *steps, last = problem.answer.split("\n")
        for step in steps:
            a, sign, b, value = re.fullmatch(r".*?(\d+) ([-+x/]) (\d+) = (\d+)\b\D*", step).groups()
            assert compute[sign](int(a), int(b)) == int(value), problem
        assert last == f"#### {value}"


@pytest.mark.parametrize("kind", KINDS)
def test_steps_use_no_number_that_is_neither_given_nor_worked_out_before(kind: str) -> None:
    constants = {"fence": {2}, "weeks": {7}, "leftover": set(range(2, 10))}.get(kind, set())
    for problem in some(kind):
        known = set(numbers(problem.question)) | constants
        for step in problem.answer.split("\n"):
            *used, value = numbers(step)
            assert set(used) <= known, problem
            known.add(value)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_one_line_of_ascii_that_ends_in_a_question_mark(kind: str) -> None:
    for problem in some(kind):
        assert problem.question.isascii() and "\n" not in problem.question
        assert problem.question.endswith("?")


def test_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    def first(seed: int) -> list[Problem]:
        return list(islice(problems(PRETRAINING_KINDS, seed), 50))

    assert first(1) == first(1)
    assert not set(first(1)) & set(first(2))


def test_kinds_come_in_equal_shares() -> None:
    drawn = list(islice(problems(("gain", "fence"), 3), 1000))
    fences = sum("meters" in problem.question for problem in drawn)
    # 500 plus or minus four standard deviations of a fair coin.
    assert 437 <= fences <= 563


def test_left_out_questions_never_come() -> None:
    left_out = {problem.question for problem in some("weeks", count=100)}
    drawn = islice(problems(("weeks",), 5, without=left_out), 2000)
    assert not left_out & {problem.question for problem in drawn}


def test_distinct_problems_ask_no_question_twice() -> None:
    # 3,000 draws from the few thousand weeks problems repeat many.
    assert len({problem.question for problem in some("weeks", count=3000)}) < 2500
    chosen = distinct_problems(("weeks",), 5, 1000)
    assert len({problem.question for problem in chosen}) == len(chosen) == 1000


def test_new_kinds_and_pretraining_kinds_share_none_and_make_up_all() -> None:
    assert set(NEW_KINDS) | set(PRETRAINING_KINDS) == set(KINDS)
    assert not set(NEW_KINDS) & set(PRETRAINING_KINDS)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("\n3 + 4 = 7 pens.\n#### 7", "7"),
        ("#### 7\n#### 8", "7"),
        ("#### 7.", "7."),
        ("There are 7.", None),
        ("####", None),
    ],
)
def test_final_result_is_what_follows_the_first_marker(text: str, result: str | None) -> None:
    assert final_result(text) == result
