"""Says before a pod is paid for whether a model fits it, on which mesh, and what a token costs.

neox-eqx plan --preset gpt-neox-20b --topology v5e:4x4 --batch-size 64
"""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.command_line import parse
from neox_eqx.errors import InputError
from neox_eqx.planning.attempts import Compiler
from neox_eqx.planning.chips import Topology
from neox_eqx.planning.plan import Plan, make_plan
from neox_eqx.planning.report import table
from neox_eqx.planning.wish import Wish
from neox_eqx.presets import preset


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile prefill and decode for a TPU that is not there, and print what they take.

    The compiler is the real one. Nothing runs: times are what the chip's rates allow at best.
    """

    topology: tuple[str, ...]
    """Slices of a pod, by shape as v5e:4x4 or by name as v4-32; several give a comparison."""
    model: str | None = None
    """A directory or a Hub id, also as ID@REVISION, of which only config.json is read."""
    origin: tyro.conf.OmitArgPrefixes[OriginOptions] = OriginOptions()
    preset: str | None = None
    """A public model's shape instead, for example gpt-neox-20b."""
    batch_size: int = 1
    """Rows that run together."""
    prompt_len: int = 1024
    """Tokens of each prompt."""
    gen_len: int = 1024
    """Tokens to generate after each prompt."""
    mesh: str = "auto"
    """As neox-eqx generate takes it, data=1,model=16; auto tries what divides the model."""
    layout: Literal["auto", "1d", "2d"] = "auto"
    """1d splits weights along model alone, 2d along data too, which pays on many chips."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of parameters and computation."""
    quantize: Literal["int8", "int4"] | None = None
    """Weights in 8 or 4 bits, as neox-eqx generate takes it."""
    cache_bits: Literal[8] | None = None
    """Keys and values in 8 bits."""
    train: bool = False
    """Compile an update of all parameters by --batch-size texts of --prompt-len tokens instead."""
    json: Path | None = None
    """Write the figures here too: an object, or a list of several topologies' objects."""
    picture: Path | None = None
    """Draw the chip's memory and the roofline here, as PNG."""


def main(options: Options) -> None:
    for path in (options.json, options.picture):
        if path and not path.parent.is_dir():
            raise InputError(f"{path}: no such directory to write to")
        if path and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written to")
        if path and path.is_dir():
            raise InputError(f"{path}: is a directory; give a file to write to")
    if options.picture and not importlib.util.find_spec("matplotlib"):
        raise InputError("--picture needs matplotlib; run pip install 'neox-eqx[plan]'")
    wishes = _wishes(options)
    plans: list[Plan] = []
    with Compiler() as compiler, tqdm(disable=None, bar_format="{desc} {elapsed}") as progress:
        for wish in wishes:
            plans.append(make_plan(wish, compiler, progress.set_description))
    print(table(options.preset or options.model or "", plans))
    if options.json:
        objects = [plan.to_json() for plan in plans]
        content = objects[0] if len(objects) == 1 else objects
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    if options.picture:
        from neox_eqx.planning.picture import draw  # only here: matplotlib takes a second

        draw(options.preset or options.model or "", plans, options.picture)


def _wishes(options: Options) -> list[Wish]:
    if (options.model is None) == (options.preset is None):
        raise InputError("give either --model or --preset")
    quantize: str | None = options.quantize
    if options.preset is not None:
        options.origin.check_unused("--preset")
        config = preset(options.preset)
    else:
        checkpoint = Checkpoint.without_tensors(
            options.origin.find(options.model or "", config_only=True)
        )
        config, form = checkpoint.config, checkpoint.form_to_hold(options.quantize)
        quantize = None if form is None else form.name
    return [
        Wish(
            config,
            Topology.parse(topology),
            options.batch_size,
            options.prompt_len,
            options.gen_len,
            options.mesh,
            options.layout,
            options.dtype,
            quantize,
            options.train,
            options.cache_bits,
        )
        for topology in options.topology
    ]


def command(program: str, args: Sequence[str]) -> None:
    main(parse(Options, program, args))
