"""From Hugging Face's tensors to an EleutherAI checkpoint, to go on training there."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.names import EMBEDDING, HEAD
from neox_eqx.checkpoint.ties import settle_tying
from neox_eqx.checkpoint.torch_file import MemoryEntry
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.neox.config import settings_of
from neox_eqx.convert.neox.files import LAYER_FILE, RANK_FILE
from neox_eqx.convert.neox.merge import Joined, Run
from neox_eqx.convert.neox.names import NeoxParameter, neox_parameters
from neox_eqx.convert.neox.torch_save import write_states
from neox_eqx.convert.source import CONFIG, Source
from neox_eqx.errors import InputError

Layout = Literal["pipeline", "sequential"]

STEP = "global_step0"


def write_neox(
    source: Source,
    directory: Path,
    *,
    tensor_parallel: int,
    layout: Layout,
    legacy_names: bool = False,
) -> None:
    """Writes the tensors of a checkpoint, split for `tensor_parallel` ranks, into `directory`.

    Beside them it writes the settings for a run that starts from them, and config.json, which has
    for the way back what settings do not tell. With parallel residuals the ranks add up some
    biases: the first rank gets these, and the others get -0, so that the sum is exactly the bias.
    `legacy_names` are those of GPT-NeoX 2.0 and before. One block of a tensor is in memory at a
    time, or one for each rank where a tensor is split by columns.

    Raises:
        InputError: the ranks do not divide the model, or GPT-NeoX's settings cannot describe it.
    """
    where, config = source.directory, source.checkpoint.config
    tensors = fitting(source.checkpoint)
    if HEAD in tensors:
        config = settle_tying(config, tensors, tensors[HEAD].dtype)
    _check_divides(where, config, tensor_parallel)
    settings = settings_of(where, config) | _run_settings(
        config, tensors[EMBEDDING].dtype.name, tensor_parallel, layout
    )

    step = directory / STEP
    (step / "configs").mkdir(parents=True)
    text = yaml.safe_dump(settings, sort_keys=False)
    (step / "configs" / "gpt-neox.yml").write_text(text, encoding="utf-8")
    _write_config(directory, source, config)
    wanted = neox_parameters(config.num_hidden_layers)
    for rank in range(tensor_parallel):
        parts = {
            parameter: _part(parameter, tensors[parameter.name], rank, tensor_parallel, config)
            for parameter in (wanted[:-1] if config.tie_word_embeddings else wanted)
            if config.attention_bias or parameter.name in tensors
        }
        _write_rank(step, rank, parts, layout, _states(tensor_parallel), legacy_names)
    # Last, so that what is not whole is no checkpoint.
    (directory / "latest").write_text(STEP, encoding="utf-8")


def _write_config(directory: Path, source: Source, config: GPTNeoXConfig) -> None:
    values = dict(source.config_json)
    if values.get("tie_word_embeddings") and not config.tie_word_embeddings:
        values["tie_word_embeddings"] = False  # Its head was another all the same.
    (directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _check_divides(where: Path, config: GPTNeoXConfig, ranks: int) -> None:
    sizes = ("num_attention_heads", "intermediate_size", "vocab_size")
    common = math.gcd(*(getattr(config, size) for size in sizes))
    if ranks < 1 or common % ranks:
        possible = ", ".join(str(count) for count in range(1, common + 1) if common % count == 0)
        told = ", ".join(f"{size} {getattr(config, size)}" for size in sizes)
        raise InputError(
            f"{where}: {ranks} ranks do not divide {told}; a tensor parallelism of {possible} does"
        )


def _run_settings(config: GPTNeoXConfig, dtype: str, ranks: int, layout: Layout) -> dict[str, Any]:
    """What the settings say of the run and not of the model."""
    precision = {"float16": {"fp16": {"enabled": True}}, "bfloat16": {"bf16": {"enabled": True}}}
    return {
        "model_parallel_size": ranks,
        "pipe_parallel_size": 1 if layout == "pipeline" else 0,
        # With this, GPT-NeoX pads any smaller vocabulary to the size of this one.
        "make_vocab_size_divisible_by": config.vocab_size // ranks,
        **precision.get(dtype, {}),
        # There are no states of an optimiser or of random numbers to load.
        "finetune": True,
    }


def _part(
    parameter: NeoxParameter, entry: Entry, rank: int, ranks: int, config: GPTNeoXConfig
) -> Entry:
    """What a rank holds of a tensor."""
    if parameter.spread == "shares" and config.use_parallel_residual and rank > 0:
        nothing = np.full(entry.shape, -0.0, entry.dtype)
        return MemoryEntry(entry.path, entry.name, nothing)
    if parameter.spread in ("copies", "shares"):
        return entry
    axis = 0 if parameter.spread == "rows" else 1
    size = entry.shape[axis] // ranks
    return Joined(entry.name, axis, (Run(entry, rank * size, (rank + 1) * size),))


def _states(ranks: int) -> dict[str, Any]:
    """What DeepSpeed asks for beside the tensors, as a run has it that has not begun."""
    return {
        "optimizer": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": [],
        "skipped_steps": 0,
        "global_steps": 0,
        "global_samples": 0,
        "dp_world_size": 1,
        "mp_world_size": ranks,
        "ds_config": {},
        "iteration": 0,
    }


def _write_rank(
    step: Path,
    rank: int,
    parts: Mapping[NeoxParameter, Entry],
    layout: Layout,
    states: dict[str, Any],
    legacy_names: bool,
) -> None:
    def named(parameter: NeoxParameter, prefix: str = "") -> Entry:
        name = parameter.names[0] if not legacy_names else parameter.legacy_name
        return Joined.whole(prefix + name, 0, [parts[parameter]])

    path = step / RANK_FILE.format(rank=rank)
    if layout == "sequential":
        write_states(
            path,
            [named(parameter, f"sequential.{parameter.number}.") for parameter in parts],
            states,
        )
        return
    write_states(path, None, states)
    for number, group in itertools.groupby(parts, key=lambda parameter: parameter.number):
        name = LAYER_FILE.format(number=number, rank=rank)
        write_states(step / name, [named(parameter) for parameter in group])
