"""A plan as a picture: what fills a chip's memory, and where its programs stand on the roofline."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neox_eqx.planning.plan import GB, Plan

_REST = "temporaries, and the cache's copy as it grows"
_PARTS = {"weights": "#3b6ea5", "keys and values": "#e1a33a", _REST: "#b7b7b7"}
_MARKS = {"decode": "o", "prefill": "s", "train": "^"}
_COLOURS = ("#3b6ea5", "#c1532f", "#3f8f5b", "#7d5ba6", "#8a6d3b", "#4d4d4d")


def draw(name: str, plans: list[Plan], path: Path) -> None:
    """Writes a PNG with two panels; a plan that does not fit has only its bar."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    memory, roofline = figure.subplots(1, 2)
    wish = plans[0].wish
    work = f"{wish.batch_size} × {wish.prompt_len} tokens"
    work += " an update" if wish.train else f" in, {wish.batch_size} × {wish.gen_len} out"
    figure.suptitle(f"{name}, {wish.dtype}: {work}")
    _draw_memory(memory, plans)
    _draw_roofline(roofline, plans)
    figure.savefig(path, dpi=120, format="png")


def _draw_memory(axes: Axes, plans: list[Plan]) -> None:
    """A bar for each program; the highest of a topology is what the chip must hold."""
    places, labels = [], []
    top = 1.25 * max(plan.wish.topology.chip.hbm_bytes / GB for plan in plans)
    for number, plan in enumerate(plans):
        limit = plan.wish.topology.chip.hbm_bytes / GB
        for side, (program, tried) in enumerate(plan.programs.items()):
            place = 2.4 * number + side
            places.append(place)
            mesh = plan.mesh.replace(",heads", "\nheads").replace(",layout", "\nlayout")
            labels.append(f"{program}\n{plan.wish.topology.name}\n{mesh}")
            parts = dict.fromkeys(_PARTS, 0.0)
            parts["weights"] = tried.weights_bytes / GB
            parts["keys and values"] = tried.cache_bytes / GB
            parts[_REST] = tried.bytes / GB - sum(parts.values())
            bottom = 0.0
            for part, height in parts.items():
                label = part if place == 0 else None
                axes.bar(place, height, 0.8, bottom, color=_PARTS[part], label=label)
                bottom += height
            # A bar that leaves the picture has its number inside the edge.
            axes.text(place, min(bottom, 0.9 * top), f"{bottom:,.1f}", ha="center", va="bottom")
        axes.hlines(limit, 2.4 * number - 0.5, 2.4 * number + 1.5, color="black", linestyle="--")
        axes.text(2.4 * number - 0.5, limit, f"{limit:.1f} GB", va="bottom")
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_ylabel("GB of a chip")
    axes.set_ylim(0, top)
    axes.legend(loc="upper right", ncols=3, fontsize=7)
    axes.set_title("memory", fontsize=10)


def _draw_roofline(axes: Axes, plans: list[Plan]) -> None:
    """What a chip can compute at each ratio of operations to bytes, and where programs stand."""
    low, high = 0.5, 5e3
    for plan, colour in zip(plans, _COLOURS * len(plans), strict=False):
        chip = plan.wish.topology.chip
        ridge = chip.flops / chip.hbm_bandwidth
        axes.plot(
            [low, ridge, high],
            [low * chip.hbm_bandwidth / 1e12, chip.flops / 1e12, chip.flops / 1e12],
            color=colour,
            label=plan.wish.topology.name,
        )
        for program, tried in plan.programs.items():
            if tried.facts is None:
                continue
            facts = tried.facts
            intensity = facts["flops"] / facts["hbm_bytes"]
            rate = facts["flops"] / facts["bound_seconds"] / 1e12
            axes.plot(intensity, rate, _MARKS[program], color=colour)
            axes.annotate(
                program, (intensity, rate), xytext=(6, -10), textcoords="offset points", fontsize=8
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of memory traffic")
    axes.set_ylabel("TFLOP/s of a chip, at best")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title("roofline (links included)", fontsize=10)
