"""A plan as a table that a person decides by."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from neox_eqx.model.formats import form_name
from neox_eqx.planning.chips import Topology
from neox_eqx.planning.message import Facts, ProgramName
from neox_eqx.planning.plan import Plan
from neox_eqx.planning.slice_names import counts
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.sizes import size_text

Row = tuple[str, Callable[[Plan], str]]
Column = list[list[str]]
"""A cell for each row of the table, as its lines."""
_WIDEST = 100
"""Letters in a line of a table; where more are needed, there are several tables."""
UNKNOWN = "-"
"""Stands for the numbers of a program that does not fit."""


def table(name: str, plans: list[Plan]) -> str:
    """One column a topology, and several tables where they would be wider than `_WIDEST`.

    Bytes, times and collectives are those of one chip.
    """
    wish = plans[0].wish
    work = f"{wish.batch_size} x {wish.prompt_len} tokens"
    work += " an update" if wish.train else f" in, {wish.batch_size} x {wish.gen_len} out"
    rows: list[Row] = _memory(wish.train)
    rows += sum((_PROGRAMS[program] for program in wish.programs), [])
    columns = [[value(plan).split("\n") for _, value in rows] for plan in plans]
    lines = "\n\n".join(_tables([label for label, _ in rows], columns))
    reasons = [f"{plan.wish.topology.name}, {plan.mesh}: {plan.reason}." for plan in plans]
    notes = [_name(plan.wish.topology) for plan in plans if plan.wish.topology.rented_as]
    notes.append("Bytes and collectives are those of one chip; times are bounds, not predictions.")
    dtype = f"{wish.dtype}, {form_name(wish.quantize)} weights" if wish.quantize else wish.dtype
    dtype += ", int8 keys and values" if wish.cache_bits else ""
    return "\n".join([f"{name}, {dtype}: {work}", "", lines, "", *reasons, *notes])


def _name(topology: Topology) -> str:
    name = topology.rented_as or ""
    return (
        f"{name} is {topology.name} unless another shape is asked for, {topology.count} chips: "
        f"the name counts {counts(name)}."
    )


def _tables(labels: list[str], columns: list[Column]) -> Iterator[str]:
    room = _WIDEST - max(map(len, labels))
    while columns:
        ends = itertools.accumulate(2 + _width(column) for column in columns)
        count = max(1, sum(end <= room for end in ends))
        yield _aligned(labels, columns[:count])
        columns = columns[count:]


def _aligned(labels: list[str], columns: list[Column]) -> str:
    widths = [-max(map(len, labels)), *map(_width, columns)]
    lines = []
    for label, *cells in zip(labels, *columns, strict=True):
        for texts in itertools.zip_longest([label], *cells, fillvalue=""):
            placed = (
                text.ljust(-width) if width < 0 else text.rjust(width)
                for text, width in zip(texts, widths, strict=True)
            )
            lines.append("  ".join(placed).rstrip())
    return "\n".join(lines)


def _width(column: Column) -> int:
    return max(len(line) for cell in column for line in cell)


def _of(program: ProgramName, show: Callable[[Facts], str]) -> Callable[[Plan], str]:
    def value(plan: Plan) -> str:
        facts = plan.programs[program].facts
        return show(facts) if facts else UNKNOWN

    return value


def _size(value: float) -> str:
    return size_text(value, digits=4)


def _at_best(facts: Facts) -> str:
    by = max(("memory", "matrix", "links"), key=lambda name: getattr(facts, f"{name}_seconds"))
    return f"{facts.bound_seconds * 1e3:,.2f} ms, by {by}"


def _other_collectives(facts: Facts) -> str:
    kinds = ("all_gather", "reduce_scatter", "all_to_all", "collective_permute")
    found = {kind: getattr(facts, kind) for kind in kinds}
    return "\n".join(f"{count} {kind}" for kind, count in found.items() if count) or "none"


def _tokens_a_second(plan: Plan) -> str:
    tokens = plan.wish.batch_size * (plan.wish.prompt_len if plan.wish.train else 1)
    return _of(plan.wish.programs[0], lambda facts: f"{tokens / facts.bound_seconds:,.0f}")(plan)


def _if_fits(show: Callable[[Plan], Any]) -> Callable[[Plan], str]:
    return lambda plan: str(show(plan)) if plan.fits else UNKNOWN


def _first(show: Callable[[Any], str]) -> Callable[[Plan], str]:
    def value(plan: Plan) -> str:
        tried = plan.programs[plan.wish.programs[0]]
        return show(tried) if tried.fits else UNKNOWN

    return value


def _program(name: ProgramName, title: str, *more: Row) -> list[Row]:
    return [
        (title, lambda plan: ""),
        ("  temporaries", _of(name, lambda facts: _size(facts.temp_bytes))),
        ("  memory traffic", _of(name, lambda facts: _size(facts.hbm_bytes))),
        *more,
        ("  all-reduces a layer", _of(name, lambda facts: f"{facts.all_reduce_per_layer:g}")),
        ("  other collectives", _of(name, _other_collectives)),
        ("  bytes of collectives", _of(name, lambda facts: _size(facts.collective_bytes))),
        ("  time at best", _of(name, _at_best)),
    ]


def _memory(train: bool) -> list[Row]:
    weights = "weights and moments" if train else "weights"
    return [
        ("", lambda plan: plan.wish.topology.name),
        ("fits", lambda plan: "yes" if plan.fits else "NO"),
        ("mesh", lambda plan: lines_of_mesh(plan.mesh)),
        ("layout", lambda plan: Arrangement.parse(plan.mesh).layout),
        ("memory needed at most", lambda plan: _size(plan.hbm_bytes_per_chip)),
        ("memory there is", lambda plan: _size(plan.wish.topology.chip.hbm_bytes)),
        (weights, _first(lambda tried: _size(tried.weights_bytes))),
        ("keys and values", _first(lambda tried: _size(tried.cache_bytes))),
        ("largest batch at this length", _if_fits(lambda plan: plan.largest_batch_size)),
        ("longest rows in this batch", _if_fits(lambda plan: plan.largest_length)),
    ]


def lines_of_mesh(mesh: str) -> str:
    """A mesh in words, on several lines."""
    return mesh.replace(",heads", "\nheads").replace(",layout", "\nlayout")


_PROGRAMS: dict[ProgramName, list[Row]] = {
    "decode": _program(
        "decode",
        "decode, a token for every row",
        ("  over the minimum", _of("decode", lambda facts: f"{facts.hbm_ratio:.3f}")),
        (
            "  cache written in place",
            _of("decode", lambda facts: "yes" if facts.cache_aliased else "NO"),
        ),
    )
    + [("  tokens a second at best", _tokens_a_second)],
    "prefill": _program("prefill", "prefill, all prompts"),
    "train": _program("train", "training, an update")
    + [("  tokens a second at best", _tokens_a_second)],
}
