"""Every layout to every layout, with no more than real checkpoints hold, and held against
transformers: no generation_config.json, no tokenizer, paths as a user types them.
"""

import functools
import itertools
import os
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.convert.forward import NEW
from neox_eqx.convert.read import read_source
from tests.convert.hf_checkpoints import write
from tests.convert.neox_checkpoints import neox, state_dict
from tests.hf_models import config_json, hf_model

CONFIG = config_json(32, 4, rotary_pct=0.25, use_parallel_residual=True)
SOURCES = ("hf", "bin", "native", "pipeline", "sequential")
TARGETS = ("hf", "native", "neox")
DTYPES = ("same", "bfloat16", "float16")
ABSOLUTE, RELATIVE = "{}/source", "source"
PATHS = (ABSOLUTE, RELATIVE, "source/", "./source/.", "../{0.name}/source", "link")

ALL = list(itertools.product(SOURCES, TARGETS, DTYPES, PATHS))
# Each pair of layouts once; over them each dtype and each path meets each layout of either side.
COVERING = [
    (source, target, DTYPES[(row + column) % 3], PATHS[(row + 2 * column) % 6])
    for row, source in enumerate(SOURCES)
    for column, target in enumerate(TARGETS)
]


@functools.cache
def model() -> GPTNeoXForCausalLM:
    return hf_model(CONFIG)


def write_source(layout: str, root: Path) -> None:
    """A source in a layout, with nothing beside what makes it one."""
    if layout in ("pipeline", "sequential"):
        neox(model(), ranks=2).write(root / "source", layout)
        return
    hf = write(root / ("hf" if layout == "native" else "source"), CONFIG, state_dict(model()))
    if layout == "native":
        convert(hf, root / "source", to="native", verify=False)
        (root / "source" / "certificate.json").unlink()
    if layout == "bin":
        torch.save(state_dict(model()), root / "source" / "pytorch_model.bin")
        (root / "source" / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in SOURCES}
    for layout, root in roots.items():
        write_source(layout, root)
        (root / "link").symlink_to("source")
    return roots


def held(
    sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: tuple
) -> None:
    """One conversion, checked as it is made and again where it lies."""
    source, target, dtype, path = case
    root = sources[source]
    monkeypatch.chdir(root)
    result = tmp_path / "result"
    certificate = convert(
        path.format(root), os.path.relpath(result), to=target, dtype=dtype, tensor_parallel=2
    )
    forward = certificate["forward"]
    assert forward["greedy_tokens_agreeing"] == forward["greedy_tokens"] == NEW
    assert forward["largest_logit_difference"] < 2e-5
    assert certificate["source"]["directory"] == str(root / "source")
    assert all((root / "source" / name).is_file() for name in certificate["source"]["files"])
    assert check(result)[1] == len(state_dict(model()))
    found = read_source(result)
    assert found.layout == target
    assert {entry.dtype.name for entry in found.entries} == {dtype.replace("same", "float32")}
    written = {path.name for path in result.iterdir()}
    assert {"config.json", "certificate.json"} <= written
    assert not {"generation_config.json", "tokenizer.json"} & written


@pytest.mark.parametrize("case", COVERING, ids="-".join)
def test_each_layout_converts_to_each(
    sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: tuple
) -> None:
    held(sources, monkeypatch, tmp_path, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ALL if case not in COVERING], ids="-".join)
def test_each_layout_converts_to_each_in_every_dtype_by_every_path(
    sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: tuple
) -> None:
    held(sources, monkeypatch, tmp_path, case)
