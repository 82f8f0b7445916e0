"""metrics.jsonl as a picture: how loss, exact match and learning rate went."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neox_eqx.destination import whole_file
from neox_eqx.training.log.metrics_file import read_metrics

_LOSS, _HELD_OUT, _MATCH, _RATE = "#3b6ea5", "#c1532f", "#3f8f5b", "#8a8a8a"


def draw_loss(directory: Path) -> None:
    """Writes loss.png beside the metrics.jsonl of a run."""
    written = io.BytesIO()
    picture(directory).savefig(written, dpi=120)
    with whole_file(directory / "loss.png") as file:
        file.buffer.write(written.getvalue())


def picture(directory: Path) -> Figure:
    """What the metrics.jsonl of a run says: a panel for the loss, and one for each other number."""
    rows = read_metrics(directory)
    panels = [draw for draw, name in _BELOW if _curve(rows, name)[0].size]
    heights = [3.0] + [1.0] * len(panels)
    figure = Figure(figsize=(9, 1.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    _draw_loss(axes[0], rows)
    for panel, draw in zip(axes[1:], panels, strict=True):
        draw(panel, rows)
    axes[0].set_title(directory.resolve().name, parse_math=False)
    axes[-1].set_xlabel("step")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    return figure


def _draw_loss(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Each step's loss, lightly where a smooth line over it says more; skipped steps below."""
    steps, losses = _curve(rows, "loss")
    if len(steps) < 20:
        axes.plot(steps, losses, "o-", color=_LOSS, markersize=4, label="loss")
    else:
        axes.plot(steps, losses, color=_LOSS, alpha=0.3, linewidth=1, label="loss")
        axes.plot(steps, _smooth(losses), color=_LOSS, linewidth=2, label="loss, smoothed")
    evaluated, held_out = _curve(rows, "eval_loss")
    if len(evaluated):
        axes.plot(evaluated, held_out, "o-", color=_HELD_OUT, markersize=5, label="held-out loss")
    skipped = [row["step"] for row in rows if None in (row.get("loss", 0), row.get("grad_norm", 0))]
    if skipped:
        low = np.full(len(skipped), 0.03)
        axes.plot(skipped, low, "kx", transform=axes.get_xaxis_transform(), label="skipped")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def _draw_match(axes: Axes, rows: list[dict[str, Any]]) -> None:
    steps, shares = _curve(rows, "exact_match")
    axes.plot(steps, 100 * shares, "o-", color=_MATCH, markersize=5)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("exact match, %")


def _draw_rate(axes: Axes, rows: list[dict[str, Any]]) -> None:
    steps, rates = _curve(rows, "learning_rate")
    axes.plot(steps, rates, "." if len(steps) == 1 else "-", color=_RATE)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("learning rate")


_BELOW = ((_draw_match, "exact_match"), (_draw_rate, "learning_rate"))


def _curve(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps that have a number of this name, and the numbers."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, numbers = np.array(points, float).reshape(-1, 2).T
    return steps, numbers


def _smooth(numbers: np.ndarray) -> np.ndarray:
    """The mean of each number's neighbours, weighted by a bell."""
    width = max(len(numbers) / 80, 2)
    reach = int(3 * width)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(numbers, bell)[reach:-reach]
    return total / np.convolve(np.ones(len(numbers)), bell)[reach:-reach]
