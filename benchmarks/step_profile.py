"""Where the time of our training step goes, by what the threads are at while it runs."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from neox_eqx import GPTNeoX, GPTNeoXConfig
from neox_eqx.planning.hlo import read_computations
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step

PRODUCTS = "matrix products"


def busy_seconds(
    config: GPTNeoXConfig, rows: int, length: int, recipe: Recipe, steps: int
) -> dict[str, float]:
    """The seconds that all threads together spend on each kind of operation in a step.

    Operations that hold a matrix product are one kind; the others are named as XLA names them,
    without their numbers. The most comes first.
    """
    model = GPTNeoX.init(config, key=jax.random.key(0), stacked=True)
    state = TrainState.start(model, recipe)
    shape = (rows, length)
    batch = Batch(jnp.ones(shape, jnp.int32), jnp.ones(shape, jnp.int32), jnp.ones(shape))
    step = train_step.lower(state, batch, recipe).compile()
    kinds = _kinds(step.as_text() or "")
    state, _ = jax.block_until_ready(step(state, batch))  # once to warm up
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(steps):
                state, _ = jax.block_until_ready(step(state, batch))
        events = list(_events(Path(directory)))
    seconds: defaultdict[str, float] = defaultdict(float)
    for name, duration in events:
        if name in kinds:
            seconds[kinds[name]] += duration / steps
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _kinds(program: str) -> dict[str, str]:
    """The kind of each operation of a compiled program by its name."""
    computations, _ = read_computations(program)
    inside = {
        name: any(each.opcode == "dot" for each in computation)
        for name, computation in computations.items()
    }
    kinds = {}
    for computation in computations.values():
        for each in computation:
            is_fused = each.opcode == "fusion" and inside[each.called("calls")]
            is_product = each.opcode == "dot" or is_fused
            if each.opcode not in ("while", "call", "conditional"):  # what they run counts itself
                kinds[each.name] = PRODUCTS if is_product else re.sub(r"[.\d]+$", "", each.name)
    return kinds


def _events(directory: Path) -> Iterator[tuple[str, float]]:
    """The names and seconds of what XLA's threads did."""
    (path,) = directory.rglob("*.xplane.pb")
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            if line.name.startswith("tf_XLA"):
                yield from ((event.name, event.duration_ns / 1e9) for event in line.events)


def print_busy(seconds: dict[str, float], most: int = 8) -> None:
    total = sum(seconds.values())
    print(f"threads are busy for {total:.3f} s in our step, of which")
    for name, own in list(seconds.items())[:most]:
        print(f"  {name:30} {own:.3f} s, {own / total:.1%}")
