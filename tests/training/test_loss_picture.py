"""The picture of a run is drawn from its metrics.jsonl, however little that holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from neox_eqx.training.log.loss_picture import draw_loss, picture

STEPS = [
    {"step": step, "loss": 3 / step, "grad_norm": 1.0, "learning_rate": 0.1}
    for step in range(1, 41)
]
EVALUATION = {"step": 20, "eval_loss": 0.5, "exact_match": 0.25}
SKIPPED = {"step": 41, "loss": None, "grad_norm": None, "learning_rate": 0.1}

BLUE, RED, GREEN, BLACK = (0x3B, 0x6E, 0xA5), (0xC1, 0x53, 0x2F), (0x3F, 0x8F, 0x5B), (0, 0, 0)


def write(directory: Path, rows: list[dict]) -> None:
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(directory: Path, rows: list[dict]) -> np.ndarray:
    write(directory, rows)
    draw_loss(directory)
    return np.round(imread(directory / "loss.png")[..., :3] * 255).astype(int)


def dots(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def test_each_number_has_its_curve(tmp_path: Path) -> None:
    bare = drawn(tmp_path, STEPS)
    assert dots(bare, BLUE) > 100 and dots(bare, RED) == dots(bare, GREEN) == 0
    full = drawn(tmp_path, [*STEPS, EVALUATION, SKIPPED])
    assert dots(full, BLUE) > 100 and dots(full, RED) > 20 and dots(full, GREEN) > 20
    assert len(full) > len(bare)  # exact match has a panel of its own


def test_what_is_drawn_is_written_beside_it(tmp_path: Path) -> None:
    write(tmp_path, [*STEPS, EVALUATION, SKIPPED])
    loss, match, rate = picture(tmp_path).axes
    labels = [panel.get_ylabel() for panel in (loss, match, rate)]
    assert labels == ["loss", "exact match, %", "learning rate"]
    assert loss.get_title() == tmp_path.name and rate.get_xlabel() == "step"
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert [text.get_text() for text in loss.get_legend().get_texts()] == list(curves)
    assert curves["loss"] == [[step, 3 / step] for step in range(1, 41)]
    assert curves["held-out loss"] == [[20, 0.5]]
    assert [step for step, _ in curves["skipped"]] == [41]
    assert match.lines[0].get_xydata().tolist() == [[20, 25]]
    low, high = match.get_ylim()
    assert low < 0 and high > 100


@pytest.mark.parametrize(
    "rows",
    [STEPS[:1], [SKIPPED], [{"step": 1, "loss": 2.0}, EVALUATION, SKIPPED]],
    ids=["one step", "one skipped step", "no learning rate"],
)
def test_a_short_run_has_a_picture(tmp_path: Path, rows: list[dict]) -> None:
    picture = drawn(tmp_path, rows)
    assert picture.shape[1] == 9 * 120 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    directory = tmp_path / "a$^$b"
    directory.mkdir()
    drawn(directory, STEPS)
