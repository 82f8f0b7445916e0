"""The picture of a plan: every text can be read, and says what is true of the workload."""

import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from neox_eqx.planning.picture import draw, picture
from neox_eqx.planning.plan import Plan
from tests.planning.made_up import THREE, plan

PLANS = {
    "three topologies": THREE,
    "one": [plan("v5e:4x4", "data=1,model=16")],
    "one that does not fit": [
        plan("v5e:4x4", "model=16"),
        plan("v5p:2x2x4", "model=8", fits=False),
    ],
    "six topologies": 2 * THREE,
    "training": [plan("v5e:4x4", "data=8,model=2", train=True)],
}


@pytest.mark.parametrize("name", PLANS)
def test_no_text_stands_on_another_or_leaves_the_picture(name: str) -> None:
    figure = picture("gpt-neox-20b", PLANS[name])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = {text: text.get_window_extent(renderer) for text in _texts(figure)}
    assert len(boxes) >= 15
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), (one.get_text(), other.get_text())


def _texts(figure: Figure) -> list[Text]:
    """All but the numbers at the axes, which matplotlib places."""
    texts: list[list[Text]] = [figure.texts, figure.axes[0].get_xticklabels()]
    for axes in figure.axes:
        labels = [axes.title, axes.xaxis.label, axes.yaxis.label]
        texts += [axes.texts, axes.get_legend().get_texts(), labels]
    return [text for several in texts for text in several if text.get_text()]


def test_the_parts_are_those_of_the_workload() -> None:
    assert "weights and moments" in _words(PLANS["training"])
    assert "weights" in _words(THREE) and "weights and moments" not in _words(THREE)
    assert {"decode", "prefill", "v4:2x2x4"} <= _words(THREE)


def test_the_picture_says_of_what_it_is_and_what_its_axes_count() -> None:
    training = picture("pythia-70m", PLANS["training"])
    assert training.get_suptitle() == "pythia-70m, bfloat16: 64 × 512 tokens an update"
    figure = picture("gpt-neox-20b", THREE)
    assert figure.get_suptitle() == "gpt-neox-20b, bfloat16: 64 × 512 tokens in, 64 × 512 out"
    memory, roofline = figure.axes
    assert memory.get_title() == "memory" and roofline.get_title().startswith("roofline")
    assert memory.get_ylabel() == "GB of a chip"
    assert roofline.get_xlabel() == "operations for each byte of memory traffic"
    assert roofline.get_ylabel() == "TFLOP/s of a chip, at best"
    assert roofline.get_xscale() == roofline.get_yscale() == "log"


def _words(plans: list[Plan]) -> set[str]:
    return {text.get_text() for text in _texts(picture("gpt-neox-20b", plans))}


def test_it_is_written_as_png(tmp_path: Path) -> None:
    draw("gpt-neox-20b", THREE, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PLANS)
def test_the_line_of_the_limit_reaches_as_far_beyond_the_first_bar_as_beyond_the_last(
    name: str,
) -> None:
    memory, _ = picture("gpt-neox-20b", PLANS[name]).axes
    assert len(memory.collections) == len(PLANS[name])
    for line in memory.collections:
        ((start, _), (end, _)) = line.get_segments()[0]
        bars = [bar.get_bbox() for bar in memory.patches]
        below = [bar for bar in bars if start < bar.x0 and bar.x1 < end]
        before, beyond = below[0].x0 - start, end - below[-1].x1
        assert beyond == pytest.approx(before) and 0 < before < below[0].width / 2
