"""Options of every program, drawn from the fields of its own dataclass: a new one is drawn too."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from neox_eqx.cli import benchmark, convert, generate, plan, score
from neox_eqx.command_line import _spellings
from neox_eqx.training.run.options import TrainingOptions
from tests.fuzz.case import Case
from tests.fuzz.faults import NUMBERS, TEXTS, Draw

_MODEL = ("--model", "model")
# The least that each program needs to run, and that ends soon.
_LEAST: dict[str, tuple[type, tuple[tuple[str, ...], ...]]] = {
    "generate.py": (
        generate.Options,
        (
            (*_MODEL, "--max-new-tokens", "1", "--prompt", "How many"),
            (*_MODEL, "--max-new-tokens", "2", "--prompt", "a", "b", "--output", "out.jsonl"),
            (*_MODEL, "--max-new-tokens", "2", "--num-beams", "2", "--prompt", "a", "b"),
            (*_MODEL, "--max-new-tokens", "2", "--temperature", "1", "--prompt-file", "texts.txt"),
            (*_MODEL, "--max-new-tokens", "2", "--chat", "--template", "dolly"),
        ),
    ),
    "score.py": (
        score.Options,
        ((*_MODEL, "--input", "texts.txt", "--output", "out.jsonl"),),
    ),
    "convert_params.py": (
        convert.Options,
        tuple(("model", "out", "--to", to, "--no-verify") for to in ("hf", "native", "neox")),
    ),
    "train.py": (
        TrainingOptions,
        (
            (*_MODEL, "--data", "data.jsonl", "--output", "out", "--steps", "1")
            + ("--batch-size", "1", "--wandb-mode", "disabled"),
        ),
    ),
    "benchmark.py": (
        benchmark.Options,
        ((*_MODEL, "--prompt-len", "4", "--gen-len", "2", "--rounds", "1"),),
    ),
    # Sizes at which nothing is compiled: the compiler takes many seconds.
    "plan.py": (
        plan.Options,
        ((*_MODEL, "--topology", "v5e:1x1", "--mesh", "model=3"), ("--topology", "v5e:1x1")),
    ),
}
OPTIONS = {program: options_type for program, (options_type, _) in _LEAST.items()}
_PLACES = (
    "model",
    "texts.txt",
    "out",
    "out.x",
    "nowhere",
    "no/where",
    "",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
)
_WORDS = (
    *("data=2", "model=1", "data=1,model=1", "model=0", "model=-1", "model=99999999999", "x=1,x=2"),
    *(
        "v5e:4x4",
        "v4-32",
        "v5e:0x0",
        "v5e:99999x99999",
        "v9:1",
        "v5e:1x1x1x1x1",
        "v5p-" + "9" * 300,
    ),
    *(
        "pythia-160m@step3000",
        "@",
        "a@b@c",
        "a/b/c",
        "5GB",
        "0GB",
        "-1",
        "1e400GB",
        "dolly",
        "oasst",
    ),
    *("query_key_value", "all-linear", "(", "model", "texts.txt", "int8", "somebody/tiny@main"),
)


def of_options_alone(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """As `of_options`, of which no more is asked than that they are read."""
    case = of_options(draw, bases)
    args = ("options", case.program, *case.args)
    return dataclasses.replace(case, program="read", args=args, bases=("texts",), stdin="")


def of_options(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """A program that would run, with one to four options more, or less, or of other values."""
    program = draw(st.sampled_from(sorted(_LEAST)))
    options_type, leasts = _LEAST[program]
    args = list(draw(st.sampled_from(leasts)))
    spellings = sorted(_spellings(options_type), key=lambda each: each[0])
    for _ in range(draw(st.integers(1, 4))):
        option, kind = draw(st.sampled_from(spellings))
        if option in args and draw(st.booleans()):
            place = args.index(option)
            end = next(
                (n for n in range(place + 1, len(args)) if args[n].startswith("--")), len(args)
            )
            del args[place:end]
        args += _spelled(draw, option, kind)
    if draw(st.integers(0, 9)) == 0:
        args.insert(draw(st.integers(0, len(args))), draw(_texts()))
    stdin = draw(
        st.sampled_from(("", "hello\n", "x" * 100_000 + "\n", "\0\n\udcff\n", "/exit\n\n"))
    )
    clean = (arg.replace("\0", "").encode("utf-8", "replace").decode() for arg in args)
    return Case("options", program, tuple(clean), ("model", "texts"), (), stdin)


def _spelled(draw: Draw, option: str, kind: Any) -> list[str]:
    """An option of this type with a value that it may have, or with another."""
    inner = [each for each in get_args(kind) if each is not type(None)]
    if draw(st.integers(0, 5)) == 0:
        return [option, draw(_texts())]
    if kind is bool:
        return [draw(st.sampled_from((option, option.replace("--", "--no-", 1))))]
    if get_origin(kind) is tuple:
        count = draw(st.sampled_from((0, 1, 1, 2, 3)))
        return [option, *(draw(_values(inner[0], option)) for _ in range(count))]
    return [option, draw(_values(kind, option))]


def _values(kind: Any, option: str) -> st.SearchStrategy[str]:
    """Values by type; of several types, of any."""
    if get_origin(kind) is Literal:
        return st.sampled_from([str(value) for value in get_args(kind)])
    if kind in (int, float):
        small = st.integers(-2, 70) if kind is int else st.floats(-2, 3)
        return st.one_of(small.map(str), st.sampled_from(NUMBERS))
    if kind is Path:
        return st.sampled_from(_PLACES)
    if kind is str:
        return st.one_of(st.sampled_from(_WORDS), _texts())
    inner = [each for each in get_args(kind) if each is not type(None)]
    return st.one_of([_values(each, option) for each in inner]) if inner else _texts()


def _texts() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from((*_WORDS, *TEXTS, *NUMBERS, *_PLACES)), st.text(max_size=12))
