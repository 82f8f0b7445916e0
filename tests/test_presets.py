"""The presets against published parameter counts, the model's own arrays and the table in docs."""

import math
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.presets import PRESETS, markdown_table, parameter_count

MODELS = Path(__file__).parents[1] / "docs" / "models.md"

# What the authors publish of each model, in papers and on model cards.
TO_THE_PARAMETER = {
    "pythia-14m": 14_067_712,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "gpt-neox-20b": 20_554_567_680,
    "polyglot-ko-1.3b": 1_331_810_304,
    "polyglot-ko-3.8b": 3_809_974_272,
    "polyglot-ko-5.8b": 5_885_059_072,
}
# Model cards whose count is not that of the published arrays to the last digit.
WITHIN_A_THOUSANDTH = {
    "polyglot-ko-12.8b": 12_898_631_680,
    "stablelm-alpha-3b": 3_638_525_952,
    "stablelm-alpha-7b": 7_869_358_080,
}
# Sizes that are given in one or two digits.
ROUNDED = {
    "open-calm-small": 160e6,
    "open-calm-medium": 400e6,
    "open-calm-large": 830e6,
    "open-calm-1b": 1.4e9,
    "open-calm-3b": 2.7e9,
    "open-calm-7b": 6.8e9,
    "dolly-v2-3b": 2.8e9,
    "dolly-v2-7b": 6.9e9,
    "dolly-v2-12b": 12e9,
    "redpajama-incite-3b": 2.8e9,
    "redpajama-incite-7b": 6.9e9,
    "rinna-3.6b": 3.6e9,
    "rinna-bilingual-4b": 3.8e9,
    "rinna-bilingual-4b-8k": 3.8e9,
    "line-japanese-large-lm-3.6b": 3.6e9,
}


@pytest.mark.parametrize(
    ("published", "tolerance"),
    [(TO_THE_PARAMETER, 0), (WITHIN_A_THOUSANDTH, 1e-3), (ROUNDED, 5e-2)],
)
def test_presets_have_as_many_parameters_as_their_authors_publish(
    published: dict[str, float], tolerance: float
) -> None:
    counts = {name: parameter_count(PRESETS[name]) for name in published}
    assert counts == pytest.approx(published, rel=tolerance, abs=0)


@pytest.mark.parametrize(
    "config",
    [
        PRESETS["pythia-1.4b"],
        PRESETS["line-japanese-large-lm-3.6b"],
        GPTNeoXConfig(97, 32, 3, 4, 80, attention_bias=False),
    ],
)
def test_the_count_is_that_of_the_arrays_of_a_model(config: GPTNeoXConfig) -> None:
    shapes = eqx.filter_eval_shape(GPTNeoX.init, config, stacked=True, key=jax.random.key(0))
    assert parameter_count(config) == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_rotated_width_of_every_polyglot_is_64() -> None:
    assert {PRESETS[name].rotary_dim for name in PRESETS if name.startswith("polyglot")} == {64}


def test_the_8k_model_stretches_its_positions() -> None:
    assert PRESETS["rinna-bilingual-4b-8k"].context_length == 8192


def test_the_table_has_a_row_for_each_preset_and_equal_cells_in_each() -> None:
    heading, _, *rows = markdown_table().splitlines()
    assert len(rows) == len(PRESETS)
    assert {row.count("|") for row in rows} == {heading.count("|")}


def test_the_module_prints_its_table_and_nothing_else() -> None:
    command = [sys.executable, "-m", "neox_eqx.presets"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == (markdown_table(), "")


def test_the_page_of_models_shows_the_table_as_the_module_prints_it() -> None:
    _, marker, after = MODELS.read_text(encoding="utf-8").partition("<!-- presets -->\n")
    assert marker, "docs/models.md has no <!-- presets --> line"
    assert after.lstrip("\n").startswith(markdown_table() + "\n"), (
        "docs/models.md's table is out of date: paste what python -m neox_eqx.presets prints"
    )
