"""A plan as a table that a person decides by."""

from collections.abc import Callable
from typing import Any

from neox_eqx.planning.plan import GB, Plan, Tried
from neox_eqx.sharding.mesh import Arrangement


def table(name: str, plans: list[Plan]) -> str:
    """One column a topology; bytes, times and collectives are those of one chip."""
    first = plans[0].wish
    heading = (
        f"{name}, {first.dtype}: {first.batch_size} x {first.prompt_len} tokens in, "
        f"{first.batch_size} x {first.gen_len} out; all of one chip but tokens/s"
    )
    rows = [(label, [_cell(plan, value) for plan in plans]) for label, value in _ROWS]
    labels = max(len(label) for label, _ in rows)
    widths = [max(len(cells[index]) for _, cells in rows) for index in range(len(plans))]
    lines = []
    for label, cells in rows:
        columns = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{label.ljust(labels)}  {columns}".rstrip())
    reasons = [f"{plan.wish.topology.name}: {plan.mesh}, as {plan.reason}" for plan in plans]
    return "\n".join([heading, "", *lines, "", *reasons])


def _cell(plan: Plan, value: Callable[[Plan], str]) -> str:
    try:
        return value(plan)
    except _Unknown:
        return "-"


class _Unknown(Exception):
    """What does not fit has no facts."""


def _facts(tried: Tried) -> dict[str, Any]:
    if tried.facts is None:
        raise _Unknown
    return tried.facts


def _gb(value: float) -> str:
    return f"{value / GB:.2f} GB"


def _others(facts: dict[str, Any]) -> int:
    kinds = ("all_gather", "reduce_scatter", "all_to_all", "collective_permute")
    return sum(facts[kind] for kind in kinds)


def _tokens_a_second(plan: Plan) -> str:
    return f"{plan.wish.batch_size / _facts(plan.decode)['bound_seconds']:,.0f}"


def _at_best(facts: dict[str, Any]) -> str:
    by = max(("memory", "matrix", "links"), key=lambda name: facts[f"{name}_seconds"])
    return f"{facts['bound_seconds'] * 1e3:.2f} ms ({by})"


_ROWS: list[tuple[str, Callable[[Plan], str]]] = [
    ("", lambda plan: plan.wish.topology.name),
    ("fits", lambda plan: "yes" if plan.fits else "NO"),
    ("mesh", lambda plan: plan.mesh),
    ("layout", lambda plan: Arrangement.parse(plan.mesh).layout),
    ("memory needed at most", lambda plan: _gb(plan.hbm_bytes_per_chip)),
    ("memory there is", lambda plan: _gb(plan.wish.topology.chip.hbm_bytes)),
    ("largest batch at these lengths", lambda plan: str(plan.largest_batch_size or "-")),
    ("weights", lambda plan: _gb(plan.decode.weights_bytes) if plan.decode.fits else "-"),
    ("keys and values", lambda plan: _gb(plan.decode.cache_bytes) if plan.decode.fits else "-"),
    ("decode, a token for every row", lambda plan: ""),
    ("  temporaries", lambda plan: f"{_facts(plan.decode)['temp_bytes'] / 1e6:.1f} MB"),
    (
        "  cache written in place",
        lambda plan: "yes" if _facts(plan.decode)["cache_aliased"] else "NO",
    ),
    ("  memory traffic", lambda plan: _gb(_facts(plan.decode)["hbm_bytes"])),
    ("  over the minimum", lambda plan: f"{_facts(plan.decode)['hbm_ratio']:.3f}"),
    ("  all-reduces a layer", lambda plan: f"{_facts(plan.decode)['all_reduce_per_layer']:g}"),
    ("  other collectives", lambda plan: str(_others(_facts(plan.decode)))),
    (
        "  bytes of collectives",
        lambda plan: f"{_facts(plan.decode)['collective_bytes'] / 1e6:.1f} MB",
    ),
    ("  time at best (bound by)", lambda plan: _at_best(_facts(plan.decode))),
    ("  tokens/s at best", _tokens_a_second),
    ("prefill, all prompts", lambda plan: ""),
    ("  temporaries", lambda plan: _gb(_facts(plan.prefill)["temp_bytes"])),
    ("  memory traffic", lambda plan: _gb(_facts(plan.prefill)["hbm_bytes"])),
    ("  all-reduces a layer", lambda plan: f"{_facts(plan.prefill)['all_reduce_per_layer']:g}"),
    ("  bytes of collectives", lambda plan: _gb(_facts(plan.prefill)["collective_bytes"])),
    ("  time at best (bound by)", lambda plan: _at_best(_facts(plan.prefill))),
]
