"""Times prefill and decode, beside transformers on the same weights if asked.

python scripts/benchmark.py --preset pythia-160m --against transformers
"""

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx import PRESETS, GPTNeoX, InputError, load
from neox_eqx.command_line import run
from neox_eqx.generation.loop import Ending, decode_all, prefill
from neox_eqx.generation.options import GenerationOptions
from neox_eqx.generation.run import pad_prompts
from neox_eqx.generation.sampling import Sampler


@dataclasses.dataclass(frozen=True)
class Options:
    """Time prefill and decode of greedy generation, medians over rounds."""

    model: str | None = None
    """A directory in Hugging Face layout or a Hub id."""
    preset: str | None = None
    """Random weights of this shape instead, for example pythia-160m."""
    batch_size: int = 1
    """Prompts that run together."""
    prompt_len: int = 128
    """Tokens of each prompt."""
    gen_len: int = 64
    """Tokens to generate after each prompt, 2 at least."""
    cache_len: int | None = None
    """Time a second run, in turn with the first, whose rows have room for so many positions."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of parameters and computation; float32 on a CPU, bfloat16 on an accelerator."""
    rounds: int = 5
    """Timed rounds after one to warm up."""
    against: Literal["transformers"] | None = None
    """Run this peer in turn with ours, and print ratios of the medians."""
    json: Path | None = None
    """Write the figures here too."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """One round: seconds until the first token, and for the others."""

    prefill: float
    decode: float


Generate = Callable[[np.ndarray], tuple[Timing, np.ndarray]]


def main(options: Options) -> None:
    if options.cache_len and options.cache_len < options.prompt_len + options.gen_len:
        raise InputError("--cache-len must be at least --prompt-len and --gen-len together")
    if options.gen_len < 2 or min(options.batch_size, options.prompt_len, options.rounds) < 1:
        raise InputError("sizes and rounds must be at least 1, and --gen-len at least 2")
    model = _model(options)
    compilations = _CompilationCount()
    prompts = _prompts(options, options.prompt_len, model.config.vocab_size)
    room = options.prompt_len + options.gen_len
    systems: dict[str, Generate] = {"neox_eqx": lambda prompts: ours(model, prompts, options, room)}
    if options.cache_len:
        roomy = options.cache_len
        systems["roomy"] = lambda prompts: ours(model, prompts, options, roomy)
    if options.against:
        systems["transformers"] = _peer(model, options.gen_len)
    timings: dict[str, list[Timing]] = {name: [] for name in systems}
    outputs: dict[str, np.ndarray] = {}
    for number in range(options.rounds + 1):
        for name, generate in systems.items():
            timing, outputs[name] = generate(prompts)
            if number > 0:
                timings[name].append(timing)
    first = compilations.count
    if options.prompt_len > 1:
        shorter = _prompts(options, options.prompt_len - 1, model.config.vocab_size)
        ours(model, shorter, options, room)
    report = _figures(options, model, timings["neox_eqx"])
    report |= {"compilations": first, "compilations_new_length": compilations.count - first}
    if options.cache_len:
        seconds = {name: _medians(timings[name])["decode"] for name in ("neox_eqx", "roomy")}
        report["roomy_decode_speed"] = seconds["neox_eqx"] / seconds["roomy"]
    if options.against:
        report |= _comparison(options, timings, outputs)
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def ours(
    model: GPTNeoX, prompts: np.ndarray, options: Options, room: int
) -> tuple[Timing, np.ndarray]:
    """Generates `gen_len` tokens greedily in rows that could fill `room` positions."""
    rows = len(prompts)
    start = time.perf_counter()
    tokens, valid = pad_prompts(prompts.tolist(), model.config.vocab_size)
    greedy = GenerationOptions(temperature=0.0).resolve({})
    ending = Ending(jnp.full(1, -1, jnp.int32), jnp.full(rows, room - prompts.shape[1], jnp.int32))
    sampler = Sampler.of([greedy] * rows)
    prompt, begun = prefill(model, tokens, valid, sampler, ending, samples=1)
    begun.tokens.block_until_ready()
    first = time.perf_counter()
    for state in decode_all(model, prompt, begun, sampler, ending, stride=options.gen_len - 1):
        if state.count >= options.gen_len:
            break
    generated = np.asarray(state.tokens)[:, : options.gen_len]
    return Timing(first - start, time.perf_counter() - first), generated


def _peer(model: GPTNeoX, count: int) -> Generate:
    from transformers_peer import TransformersPeer  # only here: torch takes seconds to import

    peer = TransformersPeer(model)

    def generate(prompts: np.ndarray) -> tuple[Timing, np.ndarray]:
        prefill, decode, tokens = peer.generate(prompts, count)
        return Timing(prefill, decode), tokens

    return generate


def _model(options: Options) -> GPTNeoX:
    if (options.model is None) == (options.preset is None):
        raise InputError("give either --model or --preset")
    if options.model is not None:
        return load(options.model, dtype=options.dtype)
    if options.preset not in PRESETS:
        raise InputError(f"no preset {options.preset!r}; there are {', '.join(PRESETS)}")
    on_cpu = jax.default_backend() == "cpu"
    dtype = options.dtype or ("float32" if on_cpu else "bfloat16")
    config = PRESETS[options.preset]
    init = jax.jit(
        lambda key: GPTNeoX.init(config, dtype=jnp.dtype(dtype), stacked=not on_cpu, key=key)
    )
    return init(jax.random.key(0))


def _prompts(options: Options, length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab_size, (options.batch_size, length))


def _figures(options: Options, model: GPTNeoX, timings: list[Timing]) -> dict[str, Any]:
    """The figures of one system, medians over the rounds."""
    rows, config = options.batch_size, model.config
    length = options.prompt_len + options.gen_len
    kv = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    seconds = _medians(timings)
    return {
        "model_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "cache_bytes": rows * length * kv,
        "hidden_bytes": rows * options.prompt_len * config.hidden_size * model.dtype.itemsize,
        "peak_bytes": _peak_bytes(),
        "prefill_latency": seconds["prefill"],
        "decode_latency": seconds["decode"],
        "total_latency": seconds["total"],
        "prefill_throughput": rows * options.prompt_len / seconds["prefill"],
        "decode_throughput": rows * (options.gen_len - 1) / seconds["decode"],
        "total_throughput": rows * options.gen_len / seconds["total"],
    }


def _comparison(
    options: Options, timings: dict[str, list[Timing]], outputs: dict[str, np.ndarray]
) -> dict[str, Any]:
    ours, peer = _medians(timings["neox_eqx"]), _medians(timings[str(options.against)])
    return {
        "peer": options.against,
        "peer_latency": peer,
        "ratio": {stage: peer[stage] / ours[stage] for stage in ours},
        "equal_tokens": float(np.mean(outputs["neox_eqx"] == outputs[str(options.against)])),
    }


def _medians(timings: list[Timing]) -> dict[str, float]:
    return {
        "prefill": statistics.median(timing.prefill for timing in timings),
        "decode": statistics.median(timing.decode for timing in timings),
        "total": statistics.median(timing.prefill + timing.decode for timing in timings),
    }


def _peak_bytes() -> int:
    """Of the device's own memory where it counts, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    unit = 1 if sys.platform == "darwin" else 1024
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _CompilationCount:
    """Counts XLA's compilations from its construction on."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def _print(report: dict[str, Any]) -> None:
    gb = 1e9
    print(
        f"model size: {report['model_bytes'] / gb:.3f} GB\t"
        f"cache size: {report['cache_bytes'] / gb:.3f} GB\t"
        f"hidden size (prefill): {report['hidden_bytes'] / gb:.3f} GB"
    )
    both = " (of both systems)" if "peer" in report else ""
    print(f"peak memory: {report['peak_bytes'] / gb:.3f} GB{both}")
    for stage in ("prefill", "decode", "total"):
        print(
            f"{stage} latency: {report[f'{stage}_latency']:.4f} s\t"
            f"{stage} throughput: {report[f'{stage}_throughput']:.2f} token/s"
        )
    print(
        f"compilations: {report['compilations']}\t"
        f"for a new prompt length in the same bucket: {report['compilations_new_length']}"
    )
    if "roomy_decode_speed" in report:
        print(f"decode speed with room for more positions: {report['roomy_decode_speed']:.3f}")
    if "peer" in report:
        ratios = "\t".join(f"{stage} {value:.2f}" for stage, value in report["ratio"].items())
        print(f"times faster than {report['peer']}: {ratios}")
        print(f"equal tokens: {report['equal_tokens']:.1%}")


if __name__ == "__main__":
    run(main, Options)
