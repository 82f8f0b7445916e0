"""The benchmark of training: both systems take the same steps, and its products are all of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.matrix_products import of_step
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.planning.hlo import read_computations
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step
from tests.hf_models import config_json
from tests.one_device import one_device

ROOT = Path(__file__).parents[2]
TINY = "--preset pythia-14m --layers 2 --vocab-size 512 --batch-size 2 --length 32".split()


def benchmark(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/train.py", *TINY, *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=one_device() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_both_systems_lose_the_same_and_every_figure_is_there(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    ended = benchmark("--rounds", "1", "--steps", "4", "--profile", "--json", path)
    assert (ended.returncode, ended.stderr) == (0, "")
    report = json.loads(path.read_text())
    assert [len(losses) for losses in report["losses"].values()] == [8, 8]
    # Measured 2e-7; 2e-5 with another weight decay of biases, more with another b2 or no clipping.
    assert report["loss_difference"] < 1e-6
    ours, theirs = report["step_seconds"].values()
    assert report["speed_ratio"] == pytest.approx(theirs / ours)
    ours, theirs = report["peak_bytes"].values()
    assert report["memory_ratio"] == pytest.approx(ours / theirs)
    # More than any model of this size, and less than both libraries together.
    assert all(50e6 < peak < 2e9 for peak in report["peak_bytes"].values())
    assert 0 < report["busy"]["matrix products"] < sum(report["busy"].values())
    assert re.search(r"^times faster than PyTorch: \d", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("parallel", [True, False])
def test_the_products_are_those_of_the_compiled_step(parallel: bool) -> None:
    values = config_json(32, 2, rotary_pct=0.5, use_parallel_residual=parallel)
    config, recipe = GPTNeoXConfig.from_hf(values), Recipe(steps=2)
    state = TrainState.start(GPTNeoX.init(config, key=jax.random.key(0)), recipe)
    numbers = jnp.ones((2, 16), jnp.int32)
    step = train_step.lower(state, Batch(numbers, numbers, jnp.ones((2, 16))), recipe).compile()
    computations, _ = read_computations(step.as_text())
    opcodes = [each.opcode for computation in computations.values() for each in computation]
    assert opcodes.count("dot") == sum(product.ours for product in of_step(config, 2, 16, recipe))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--length", "1"), "--length"),
        (("--length", "4096"), "2048"),
        (("--preset", "pythia-7m"), "pythia-7m"),
        (("--json", "no/such/place.json"), "no/such/place.json"),
    ],
)
def test_wrong_options_end_in_one_line_and_status_2(options: tuple[str, ...], message: str) -> None:
    ended = benchmark(*options)
    assert ended.returncode == 2
    assert message in ended.stderr and ended.stderr.count("\n") == 1
