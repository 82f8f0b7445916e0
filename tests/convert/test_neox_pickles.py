"""Of an EleutherAI file the tensors are read; all else is passed over or refused, and not run."""

import os
import random
import re
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neox_eqx.checkpoint.torch_file import read_states
from neox_eqx.convert.neox.read import read_neox
from neox_eqx.errors import InputError
from tests.convert.neox_checkpoints import STEP, neox, state_dict
from tests.convert.neox_reading import assert_same_bits, checkpoint, eight_heads, read, refusal

LAYER = "layer_03-model_01-model_states.pt"
RANK = "mp_rank_01_model_states.pt"
SUMMED = ("attention.dense.bias", "dense_4h_to_h.bias")


class LossScaler:
    """As DeepSpeed's: an object of a class that is not installed here."""

    __module__ = "deepspeed.runtime.fp16.loss_scaler"

    def __init__(self) -> None:
        self.cur_scale = 4096.0


def test_states_of_a_training_run_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [LossScaler.__module__.rsplit(".", level)[0] for level in range(4)]
    modules = {name: types.ModuleType(name) for name in packages}
    modules[LossScaler.__module__].LossScaler = LossScaler  # type: ignore[attr-defined]
    checkpoint = neox(eight_heads(parallel=True), ranks=2)
    checkpoint.states |= {
        "args": Namespace(num_layers=2, tokenizer_type="HFTokenizer"),
        "options": types.SimpleNamespace(lr=0.1),
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "loss": np.float64(2.5),
        "param_shapes": [{"a": torch.Size([3, 4])}],
        "optimizer": {"loss_scaler": LossScaler(), "state": {0: {"exp_avg": torch.ones(3)}}},
        "lr_scheduler": None,
    }
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        root = checkpoint.write(tmp_path / "x", "sequential")
    names = [entry.name for entry in read_neox(root).entries]
    assert names == list(state_dict(eight_heads(parallel=True)))


def test_files_of_an_old_torch_are_read(tmp_path: Path) -> None:
    root = neox(eight_heads(parallel=True), ranks=2).write(tmp_path / "x", "pipeline")
    for path in root.glob("*/layer_*.pt"):
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    expected = state_dict(eight_heads(parallel=True))
    ours = read(read_neox(root))
    kept = {name: array for name, array in ours.items() if not name.endswith(SUMMED)}
    assert_same_bits(kept, {name: expected[name] for name in kept})


class Attack:
    """Unpickled in the ordinary way it calls a function with an argument."""

    def __init__(self, function: Callable[..., Any], argument: object):
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object]]:
        return self.function, (self.argument,)


@pytest.mark.parametrize("within", ["tensors", "states", "args"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (exec, "exec"), (getattr, "getattr")],
)
def test_code_in_a_pickle_is_refused_by_name_and_not_run(
    tmp_path: Path, function: Callable[..., Any], name: str, zipped: bool, within: str
) -> None:
    mark = tmp_path / "ran"
    shell = function is os.system
    attack = Attack(function, f"touch {mark}" if shell else f"open({str(mark)!r}, 'w').close()")
    root = checkpoint().write(tmp_path / "x", "sequential")
    path = root / STEP / RANK
    states = torch.load(path, weights_only=False)
    target = states["module"] if within == "tensors" else states
    target["args" if within == "args" else "more"] = attack
    torch.save(states, path, _use_new_zipfile_serialization=zipped)
    message = refusal(root)
    assert re.search(rf"{RANK}: holds other things than named tensors \('\S*{name}'\)", message)
    assert not mark.exists()
    if function in (os.system, eval, exec):
        torch.load(path, weights_only=False)
        assert mark.exists()  # The attack is a real one.


@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_truncated_file_is_named(tmp_path: Path, layout: str) -> None:
    root = checkpoint().write(tmp_path / "x", layout)
    path = root / STEP / (LAYER if layout == "pipeline" else RANK)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(root) == f"{path}: is truncated or corrupt; get the file again"


def test_name_of_a_hostile_global_does_not_reach_the_terminal(tmp_path: Path) -> None:
    root = checkpoint(ranks=1).write(tmp_path / "x", "sequential")
    path = root / STEP / "mp_rank_00_model_states.pt"
    pickle = b"\x80\x02cos\x1b[2J\nsystem\n."
    stream = b"".join(_legacy_header()) + pickle
    path.write_bytes(stream)
    assert refusal(root)


def _legacy_header() -> list[bytes]:
    """What torch wrote before the pickle when its files were no archives yet."""
    import pickle

    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (0x1950A86A20F9469CFC6C, 1001, system)
    return [pickle.dumps(part, protocol=2) for part in parts]


def test_nothing_is_held_that_was_not_asked_for(tmp_path: Path) -> None:
    """The values of the large tensors are read with their part, and not before."""
    root = checkpoint().write(tmp_path / "x", "pipeline")
    source = read_neox(root)
    entry = next(entry for entry in source.entries if entry.name.endswith("dense_h_to_4h.weight"))
    whole = entry.read((slice(None), slice(None)))
    path = root / STEP / "layer_02-model_01-model_states.pt"
    path.write_bytes(path.read_bytes()[:100])
    first = entry.read((slice(0, 96), slice(None)))
    np.testing.assert_array_equal(first, whole[:96])
    with pytest.raises(InputError, match="layer_02-model_01-model_states.pt: ends within"):
        entry.read((slice(95, 97), slice(None)))


def test_dicts_that_a_pickle_repeats_are_not_followed_for_ever(tmp_path: Path) -> None:
    shared: dict = {"a": 1}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    endless: dict = {"iteration": 3}
    endless["args"] = endless
    module = {"w": torch.ones(2), (1, 2): torch.ones(3)}
    torch.save({"module": module, "args": shared, "more": endless}, tmp_path / "a.pt")
    entries, beside = read_states(tmp_path / "a.pt")
    assert {entry.name: entry.shape for entry in entries} == {"w": (2,), "(1, 2)": (3,)}
    assert beside["more"]["iteration"] == 3
