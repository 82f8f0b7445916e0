"""A plan as a picture: what fills a chip's memory, and where its programs stand on the roofline."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neox_eqx.planning.plan import GB, Plan, Tried
from neox_eqx.planning.report import lines_of_mesh

_WEIGHTS, _CACHE = "weights", "keys and values"
_REST = "temporaries, and the cache's copy as it grows"
_PARTS = {_WEIGHTS: "#3b6ea5", _CACHE: "#e1a33a", _REST: "#b7b7b7"}
_MARKS = {"decode": "o", "prefill": "s", "train": "^"}
_COLOURS = ("#3b6ea5", "#c1532f", "#3f8f5b", "#7d5ba6", "#8a6d3b", "#4d4d4d")
_STRIDE = 2.4
"""The distance from one topology's bars to the next, in widths of a bar."""


def draw(name: str, plans: list[Plan], path: Path) -> None:
    """Writes a PNG with two panels; a plan that does not fit has only its bar."""
    picture(name, plans).savefig(path, dpi=120, format="png")


def picture(name: str, plans: list[Plan]) -> Figure:
    # Wide enough for the text below each topology's bars.
    figure = Figure(figsize=(max(12, 6 + 1.7 * len(plans)), 4.8), layout="constrained")
    widths = [max(6, 1.7 * len(plans)), 6]
    memory, roofline = figure.subplots(1, 2, width_ratios=widths)
    wish = plans[0].wish
    work = f"{wish.batch_size} × {wish.prompt_len} tokens"
    work += " an update" if wish.train else f" in, {wish.batch_size} × {wish.gen_len} out"
    figure.suptitle(f"{name}, {wish.dtype}: {work}")
    _draw_memory(memory, plans)
    _draw_roofline(roofline, plans)
    return figure


def _draw_memory(axes: Axes, plans: list[Plan]) -> None:
    """A bar for each program; the highest of a topology is what the chip must hold."""
    train = plans[0].wish.train
    names = {_WEIGHTS: "weights and moments" if train else _WEIGHTS}
    top = 1.3 * max(plan.wish.topology.chip.hbm_bytes / GB for plan in plans)
    ticks: dict[float, str] = {}
    for number, plan in enumerate(plans):
        limit = plan.wish.topology.chip.hbm_bytes / GB
        xs = [_STRIDE * number + side for side in range(len(plan.programs))]
        for x, (program, tried) in zip(xs, plan.programs.items(), strict=True):
            ticks[x] = program
            _draw_bar(axes, x, tried, top)
        left, right = xs[0] - 0.5, xs[-1] + 0.5
        axes.hlines(limit, left, right, color="black", linestyle="--")
        axes.text(left, limit, f"{limit:.1f} GB", va="bottom")
        below = f"{plan.wish.topology.name}\n{lines_of_mesh(plan.mesh)}"
        axes.text(
            (left + right) / 2,
            -0.09,
            below,
            ha="center",
            va="top",
            fontsize=8,
            transform=axes.get_xaxis_transform(),
        )
    parts = [Patch(color=_PARTS[part], label=names.get(part, part)) for part in _PARTS]
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylabel("GB of a chip")
    axes.set_ylim(0, top)
    axes.legend(handles=parts, loc="upper right", ncols=3, fontsize=7)
    axes.set_title("memory", fontsize=10)


def _draw_bar(axes: Axes, x: float, tried: Tried, top: float) -> None:
    parts = {_WEIGHTS: tried.weights_bytes / GB, _CACHE: tried.cache_bytes / GB}
    parts[_REST] = tried.bytes / GB - sum(parts.values())
    bottom = 0.0
    for part, height in parts.items():
        axes.bar(x, height, 0.8, bottom, color=_PARTS[part])
        bottom += height
    # Within the bar, where it meets neither the limit's number nor the edge of the picture.
    inside = bottom > 0.06 * top
    height = min(bottom, 0.85 * top)
    axes.text(x, height, f"{bottom:,.1f}", ha="center", va="top" if inside else "bottom")


def _draw_roofline(axes: Axes, plans: list[Plan]) -> None:
    """What a chip can compute at each ratio of operations to bytes, and where programs stand."""
    low, high = 0.5, 5e3
    marks: dict[str, Line2D] = {}
    lines = []
    for plan, colour in zip(plans, _COLOURS * len(plans), strict=False):
        rates = plan.wish.topology.chip.rates
        ridge = rates.flops / rates.hbm_bandwidth
        lines += axes.plot(
            [low, ridge, high],
            [low * rates.hbm_bandwidth / 1e12, rates.flops / 1e12, rates.flops / 1e12],
            color=colour,
            label=plan.wish.topology.name,
        )
        for program, tried in plan.programs.items():
            if tried.facts is None:
                continue
            facts = tried.facts
            intensity = facts.flops / facts.hbm_bytes
            rate = facts.flops / facts.bound_seconds / 1e12
            axes.plot(intensity, rate, _MARKS[program], color=colour)
            # Named in the legend: several chips' points stand where their names would not fit.
            grey = Line2D([], [], color="grey", marker=_MARKS[program], linestyle="", label=program)
            marks[program] = grey
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of memory traffic")
    axes.set_ylabel("TFLOP/s of a chip, at best")
    axes.grid(alpha=0.3, which="both")
    axes.legend(handles=[*lines, *marks.values()], loc="lower right", fontsize=8)
    axes.set_title("roofline (links included)", fontsize=10)
