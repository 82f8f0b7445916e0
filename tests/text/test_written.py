"""Completions in a file come out the same to the byte, wherever a run is ended and goes on."""

import dataclasses
import itertools
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.resume import PartialRows, partial_rows
from neox_eqx.text.written import write_completions
from tests.text.checkpoints import byte_level, save_checkpoint

GREEDY = GenerationOptions(max_new_tokens=4)
SAMPLED = GenerationOptions(max_new_tokens=5, temperature=1.3, num_samples=2)
BEAMS = GenerationOptions(max_new_tokens=4, num_beams=2, num_return_sequences=2)
WORDS = "Two cats and three dogs went home and ate".split()
PROMPTS = [" ".join(WORDS[: 1 + n % len(WORDS)]) for n in range(11)]


def each(*kinds: GenerationOptions) -> list[GenerationOptions]:
    """Options for every prompt, of these kinds in turn."""
    in_turn = itertools.islice(itertools.cycle(kinds), len(PROMPTS))
    return [dataclasses.replace(kind, seed=n) for n, kind in enumerate(in_turn)]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(directory, byte_level())
    return TextGenerator.load(directory)


class Killed(BaseException):
    """No error, as nothing is tidied up after a kill."""


class Rows(PartialRows):
    """Those of a run that ends before it has so many more."""

    left = 10**9

    def add(self, place: int, row: Mapping[str, Any]) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        super().add(place, row)


def write(output: Path, generator: TextGenerator, left: int = 10**9, **other: Any) -> None:
    with partial_rows(output) as rows:
        rows.__class__ = Rows
        rows.left = left
        arguments = {"prompts": PROMPTS, "batch_size": 3} | other
        write_completions(generator, rows=rows, **arguments)


@pytest.mark.parametrize(
    "options",
    [each(SAMPLED), pytest.param(each(GREEDY, BEAMS, SAMPLED), marks=pytest.mark.slow)],
    ids=["sampled", "mixed"],
)
def test_a_run_that_is_ended_goes_on_and_comes_out_the_same_to_the_byte(
    generator: TextGenerator, tmp_path: Path, options: list[GenerationOptions]
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    write(whole, generator, options=options)
    count = sum(own.resolve({}).num_completions for own in options)
    assert whole.read_bytes().count(b"\n") == count
    draw = random.Random(0)
    for _ in range(2):
        there = 0
        while there < count - 3:
            left = draw.randint(0, count // 2)
            if there + left < count:
                with pytest.raises(Killed):
                    write(output, generator, left, options=options)
                there += left
            assert not output.exists()
        write(output, generator, count - there, options=options)  # and not one of those again
        assert output.read_bytes() == whole.read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
        output.unlink()


def test_rows_of_another_run_are_kept_and_the_difference_is_named(
    generator: TextGenerator, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    same = [SAMPLED] * len(PROMPTS)
    with pytest.raises(Killed):
        write(output, generator, 2, options=same)
    before = (tmp_path / "out.partial").read_bytes()
    shorter = dataclasses.replace(SAMPLED, max_new_tokens=3)
    cases: dict[str, tuple[TextGenerator, dict[str, Any]]] = {
        "another max_new_tokens": (generator, {"options": [shorter, *same[1:]]}),
        "another list of prompts": (generator, {"prompts": PROMPTS[1:], "options": same[1:]}),
        "another temperature and another seed": (
            generator,
            {"options": [dataclasses.replace(SAMPLED, temperature=0.5, seed=1)] * len(PROMPTS)},
        ),
        "another mask_unknown_tokens": (
            dataclasses.replace(generator, mask_unknown_tokens=True),
            {},
        ),
        "another bitwise": (dataclasses.replace(generator, bitwise=True), {}),
        "another set of EOS ids": (
            dataclasses.replace(generator, defaults={**generator.defaults, "eos_token_id": 5}),
            {},
        ),
    }
    for difference, (other, asked) in cases.items():
        with pytest.raises(InputError) as raised:
            write(output, other, **{"options": same} | asked)
        assert f"out.partial: has rows of {difference}; remove it, or name" in str(raised.value)
    assert (tmp_path / "out.partial").read_bytes() == before
    # Other batches are not another run: memory may have been short.
    write(output, generator, options=same, batch_size=11)
    assert output.read_bytes().count(b"\n") == 2 * len(PROMPTS)
