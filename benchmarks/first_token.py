"""Times processes from their start to the end of 32 tokens, and loading, with a warm page cache.

python benchmarks/first_token.py --preset pythia-160m --against transformers
python benchmarks/first_token.py --preset pythia-410m --load
"""

import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from neox_eqx import DEMO_MODEL, PRESETS, GPTNeoXConfig, InputError
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.safetensors_file import write_tensors
from neox_eqx.command_line import run
from neox_eqx.shown import shown
from neox_eqx.sizes import size_text

PROMPT = "Tom has 3 boxes with 4 apples each."
THEIRS = """
import sys
from transformers import AutoTokenizer, GPTNeoXForCausalLM

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = GPTNeoXForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
given = tokenizer(sys.argv[2], return_tensors="pt", return_token_type_ids=False)
ids = model.generate(**given, do_sample=False, max_new_tokens=32, min_new_tokens=32)
print(tokenizer.decode(ids[0]))
"""
LLAMA = """
import sys
from llama_cpp import Llama

model = Llama(sys.argv[1], verbose=False)
tokens = model.tokenize(sys.argv[2].encode())
for _, token in zip(range(32), model.generate(tokens, temp=0.0)):
    tokens.append(token)
print(model.detokenize(tokens).decode(errors="replace"))
"""
LOAD = """
import json, sys, time
from pathlib import Path
import jax, numpy as np
from neox_eqx import load

def memory():
    status = Path("/proc/self/status").read_text().split()
    return [1024 * int(status[status.index(f"{name}:") + 1]) for name in ("RssAnon", "RssFile")]

jax.devices()
before, start = memory(), time.perf_counter()
model = jax.block_until_ready(load(sys.argv[1]))
seconds = time.perf_counter() - start
leaves = [np.asarray(leaf).view(np.uint8) for leaf in jax.tree.leaves(model)]
held = sum(leaf.nbytes for leaf in leaves)
touched = [int(leaf.reshape(-1)[::4096].max()) for leaf in leaves]  # every page of it is there now
private, shared = (now - then for now, then in zip(memory(), before))
print(json.dumps({"seconds": seconds, "held": held, "private": private, "shared": shared}))
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time processes from their start to the end of 32 tokens."""

    preset: str = "pythia-160m"
    """Shape of the checkpoint, of random weights in float16; it is written to a directory first."""
    against: Literal["transformers"] | None = None
    """Run this peer in turn with ours."""
    gguf: Path | None = None
    """Run llama.cpp (llama_cpp) with this file too."""
    load: bool = False
    """Measure seconds and memory of loading instead, of a file of ours and of one whose data are
    aligned to 8 bytes alone."""
    rounds: int = 5
    """After one to warm up, which fills the cache of programs."""


def main(options: Options) -> None:
    if options.preset not in PRESETS:
        raise InputError(f"no preset {shown(options.preset)}; there are {', '.join(PRESETS)}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "model")
        _write_checkpoint(directory, PRESETS[options.preset])
        if options.load:
            _measure_loads(directory, options.rounds)
        else:
            os.environ["NEOX_EQX_PROGRAMS"] = f"{name}/programs"
            _measure_starts(directory, options)


def _measure_starts(directory: Path, options: Options) -> None:
    generate = [Path(__file__).parents[1] / "generate.py", "--model", directory]
    greedy = ["--temperature", "0", "--max-new-tokens", "32", "--min-new-tokens", "32"]
    commands = {"neox_eqx": [*generate, "--prompt", PROMPT, *greedy]}
    if options.against:
        commands["transformers"] = ["-c", THEIRS, directory, PROMPT]
    if options.gguf:
        commands["llama.cpp"] = ["-c", LLAMA, options.gguf, PROMPT]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, command in commands.items():
            taken = _timed([sys.executable, *map(str, command)])
            if number == 0:
                print(f"{name}: the first run {taken[0]:.2f} s, {taken[1]:.2f} s of processors")
            else:
                seconds[name].append(taken)
    for name, each in seconds.items():
        wall, cpu = map(statistics.median, zip(*each, strict=True))
        least = min(each)[0]
        print(f"{name}: {wall:.2f} s (at least {least:.2f}), {cpu:.2f} s of processors")


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds of the clock and of processors that a command takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True)
    end, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        raise InputError(f"a process failed: {ran.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return end - start, cpu


def _measure_loads(directory: Path, rounds: int) -> None:
    moved = directory.with_name("moved")
    shutil.copytree(directory, moved)
    data = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    with open(moved / "model.safetensors", "wb") as file:
        file.write((length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8)
        file.write(memoryview(data)[8 + length :])
    del data
    kinds = {"aligned to 64 bytes": directory, "aligned to 8 bytes": moved}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, place in kinds.items():
            output = subprocess.check_output([sys.executable, "-c", LOAD, place])
            found[name].append(json.loads(output))
    for name, each in found.items():
        middle = {key: statistics.median(own[key] for own in each) for key in each[0]}
        held, private, shared = (size_text(middle[key]) for key in ("held", "private", "shared"))
        print(
            f"{name}: {middle['seconds']:.2f} s (at least {min(e['seconds'] for e in each):.2f}), "
            f"{held} of parameters, {private} of own memory, {shared} of files"
        )


def _write_checkpoint(directory: Path, config: GPTNeoXConfig) -> None:
    directory.mkdir()
    shapes = parameters(model_shapes(config, jnp.dtype("float16"), stacked=False))
    layout = [(leaf.names[0], leaf.shape, np.dtype(np.float16)) for leaf in shapes]
    write_tensors(directory / "model.safetensors", layout, _random(layout))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, directory / name)


def _random(layout: list[tuple[str, tuple[int, ...], np.dtype]]) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for name, shape, _ in layout:
        offset = 1 if name.endswith("norm.weight") else 0
        yield (0.02 * generator.standard_normal(shape, np.float32) + offset).astype(np.float16)


if __name__ == "__main__":
    run(main, Options)
