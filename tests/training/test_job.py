"""A job before it begins: what its options come to, and what is refused before any data is read."""

import re
from pathlib import Path
from typing import Any

import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.run.job import Job
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.update.tuning import Tuning
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import write_data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    save_checkpoint(directory / "model", byte_level())
    write_data(directory / "data.jsonl", 9)
    write_data(directory / "held_out.jsonl", 5)
    return directory


def options(files: Path, data: str = "data.jsonl", **own: Any) -> TrainingOptions:
    given: dict[str, Any] = {"batch_size": 4, "mesh": "data=1,model=1"}
    return TrainingOptions(files / data, files / "run", model=str(files / "model"), **given | own)


def evaluated(files: Path, **own: Any) -> Job:
    return Job.of(options(files, eval_data=files / "held_out.jsonl", **own))


def test_an_evaluation_takes_as_many_rows_at_a_time_as_a_part_of_a_batch(files: Path) -> None:
    job = evaluated(files, batch_size=8, grad_accumulation=4, mesh="data=2,model=1")
    assert job.data.batch_size == 8
    assert job.held_out and job.held_out.data.batch_size == 2
    assert [rows.tokens.shape[0] for rows in job.held_out.data.once()] == [2, 2, 2]


def test_what_is_too_long_is_counted_in_the_held_out_data_too(files: Path) -> None:
    sizes = {"max_length": 20}
    dropped, cut = evaluated(files, **sizes), evaluated(files, too_long="cut", **sizes)
    assert dropped.held_out and cut.held_out
    counts = dropped.held_out.data.counts
    assert counts.examples == 5 and 0 < counts.dropped < 5 and counts.cut == 0
    assert len(dropped.held_out.examples) == 5 - counts.dropped
    assert cut.held_out.data.counts.cut == counts.dropped
    own, held_out = dropped.summary.splitlines()
    assert own.startswith(f"{files / 'data.jsonl'}: 9 examples, ")
    assert own.endswith(" tokens are learnt")
    assert held_out == (
        f"{files / 'held_out.jsonl'}: 5 examples, {counts.dropped} dropped; "
        f"{counts.learnt_tokens} of {counts.tokens} tokens are measured, "
        f"{5 - counts.dropped} prompts answered"
    )
    (own, held_out) = dropped.warnings
    assert re.fullmatch(
        f"{files / 'data.jsonl'}: . of 9 examples are too long: .* keep 95 % .*", own
    )
    assert held_out.startswith(f"{files / 'held_out.jsonl'}: ")
    assert cut.warnings == []


def test_the_first_held_out_prompts_alone_are_answered_on_request(files: Path) -> None:
    for count in (0, 3):
        held_out = evaluated(files, eval_questions=count).held_out
        assert held_out and [example.number for example in held_out.examples] == [1, 2, 3][:count]
        assert len(held_out.data.documents) == 5


def test_the_longest_row_that_fits_is_what_none_is_given_for(files: Path) -> None:
    asked, given = (Job.of(options(files, max_length=length)) for length in (None, 64))
    assert asked.settings == given.settings and asked.settings["max_length"] == 64


def test_steps_follow_from_epochs_and_the_recipe_from_the_options(files: Path) -> None:
    job = Job.of(options(files, epochs=2, remat=False, learning_rate=0.5, seed=2**32 - 1))
    assert (job.recipe.steps, job.recipe.remat, job.recipe.learning_rate) == (5, False, 0.5)
    assert job.recipe.seed == job.data.seed == 2**32 - 1


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"mesh": "data=3,model=1"}, "the 4 rows of a part of the batch do not divide"),
        ({"grad_accumulation": 3}, "does not divide into 3 parts"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"max_length": 65}, "max_length 65 is above the 64 tokens of the model's context$"),
        ({"eval_data": Path("/none.jsonl")}, "/none.jsonl: cannot be read"),
        (
            {"tuning": Tuning(prompt_tokens=90)},
            "context of 64 has no token that 90 positions before the text leave",
        ),
        (
            {"tuning": Tuning(prefix_tokens=60), "max_length": 5},
            "max_length 5 is above the 4 tokens of the model's context that 60 positions before",
        ),
    ],
)
def test_what_needs_no_data_is_refused_before_it_is_read(
    files: Path, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Job.of(options(files, "absent.jsonl", **own))


def test_held_out_data_of_which_nothing_is_left_is_named(files: Path) -> None:
    message = f"{files / 'held_out.jsonl'}: all 5 examples are too long for max_length 4"
    with pytest.raises(InputError, match=message):
        evaluated(files, max_length=4)
