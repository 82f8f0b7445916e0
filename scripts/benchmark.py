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
import tyro
from jaxtyping import PRNGKeyArray

from neox_eqx import GPTNeoX, InputError, load
from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.command_line import run
from neox_eqx.generation.loop import decode_all, prefill
from neox_eqx.generation.not_a_number import not_numbers
from neox_eqx.generation.options import GenerationOptions
from neox_eqx.generation.run import pad_prompts, strategy_of
from neox_eqx.generation.stopping import ERROR
from neox_eqx.presets import preset


@dataclasses.dataclass(frozen=True)
class Options:
    """Time prefill and decode of generation, greedy if not told otherwise, medians over rounds."""

    model: str | None = None
    """A directory in Hugging Face layout or a Hub id, also as ID@REVISION."""
    origin: tyro.conf.OmitArgPrefixes[OriginOptions] = OriginOptions()
    preset: str | None = None
    """Random weights of this shape instead, for example pythia-160m."""
    batch_size: int = 1
    """Prompts that run together."""
    prompt_len: int = 128
    """Tokens of each prompt."""
    gen_len: int = 64
    """Tokens to generate after each prompt, 2 at least."""
    num_beams: int = 1
    """Beams of a search instead."""
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: int = 0
    """Forbid so many words of two tokens."""
    top_p: float | None = None
    """Sample with it at temperature 1; also timed in turn without."""
    cache_len: int | None = None
    """Time a second run, in turn with the first, whose rows may grow to so many positions. Slots
    are added as a text grows, so it costs nothing; a cache allocated for them all would show."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of parameters and computation; float32 on a CPU, bfloat16 on an accelerator."""
    quantize: Literal["int8"] | None = None
    """Round the weights of the layers, and of a head that is not the embedding, to 8 bits."""
    rounds: int = 5
    """Timed rounds after one to warm up."""
    against: Literal["transformers"] | None = None
    """Run this peer in turn with ours, and print ratios of the medians."""
    json: Path | None = None
    """Write the figures here too."""


@dataclasses.dataclass(frozen=True)
class Round:
    """Seconds until the first token and for the others, and what came of it."""

    prefill: float
    decode: float
    tokens: np.ndarray
    cache_bytes: int = 0


Generate = Callable[[np.ndarray], Round]


def main(options: Options) -> None:
    _check(options)
    model = _model(options)
    longest, context = options.prompt_len + options.gen_len, model.config.context_length
    if longest > context:
        raise InputError(f"--prompt-len and --gen-len are {longest} positions of {context}")
    compilations = _CompilationCount()
    prompts = _prompts(options, options.prompt_len, model.config.vocab_size)
    rounds = _interleaved(_systems(options, model), prompts, options.rounds)
    first = compilations.count
    if options.prompt_len > 1:
        shorter = _prompts(options, options.prompt_len - 1, model.config.vocab_size)
        ours(model, shorter, options, longest)
    report = _figures(options, model, rounds["neox_eqx"])
    report |= {"compilations": first, "compilations_new_length": compilations.count - first}
    if options.cache_len:
        seconds = {name: _medians(rounds[name])["decode"] for name in ("neox_eqx", "roomy")}
        report["roomy_decode_speed"] = seconds["neox_eqx"] / seconds["roomy"]
    if options.top_p is not None:
        seconds = {name: _medians(rounds[name])["decode"] for name in ("neox_eqx", "greedy")}
        report["sampling_share"] = 1 - seconds["greedy"] / seconds["neox_eqx"]
    if options.against:
        report |= {"peer": options.against} | _comparison(rounds["neox_eqx"], rounds["peer"])
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _check(options: Options) -> None:
    if options.gen_len < 2 or min(options.batch_size, options.prompt_len, options.rounds) < 1:
        raise InputError("sizes and rounds must be at least 1, and --gen-len at least 2")
    if options.cache_len and options.cache_len < options.prompt_len + options.gen_len:
        raise InputError("--cache-len must be at least --prompt-len and --gen-len together")
    if options.against and options.top_p is not None:
        raise InputError("--against compares equal tokens; leave out --top-p")
    if options.against and options.quantize:
        raise InputError("--against compares the same weights; leave out --quantize")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"{options.json}: no such directory to write to")


def _systems(options: Options, model: GPTNeoX) -> dict[str, Generate]:
    longest = options.prompt_len + options.gen_len
    systems: dict[str, Generate] = {
        "neox_eqx": lambda prompts: ours(model, prompts, options, longest)
    }
    if options.cache_len:
        room = options.cache_len
        systems["roomy"] = lambda prompts: ours(model, prompts, options, room)
    if options.against:
        systems["peer"] = _peer(model, options)
    if options.top_p is not None:
        greedy = dataclasses.replace(options, top_p=None)
        systems["greedy"] = lambda prompts: ours(model, prompts, greedy, longest)
    return systems


def _interleaved(
    systems: dict[str, Generate], prompts: np.ndarray, count: int
) -> dict[str, list[Round]]:
    """`count` rounds of each system in turn, after one to warm up."""
    rounds: dict[str, list[Round]] = {name: [] for name in systems}
    for _ in range(count + 1):
        for name, generate in systems.items():
            rounds[name].append(generate(prompts))
    return {name: own[1:] for name, own in rounds.items()}


def ours(model: GPTNeoX, prompts: np.ndarray, options: Options, room: int) -> Round:
    """Generates `gen_len` tokens in rows that could fill `room` positions."""
    rows = len(prompts)
    start = time.perf_counter()
    tokens, valid = pad_prompts(prompts.tolist(), model.config.vocab_size)
    own = GenerationOptions(**_generation(options)).resolve({})
    strategy = strategy_of([own] * rows, [room - prompts.shape[1]] * rows)
    prompt, begun = prefill(model, tokens, valid, strategy)
    begun.rows.tokens.block_until_ready()
    first = time.perf_counter()
    for state in decode_all(model, (prompt,), begun, strategy, stride=options.gen_len - 1):
        if state.count >= options.gen_len:
            break
    found, _ = strategy.results(state.rows, state.memory)
    if (np.asarray(found.finish) == ERROR).any():  # it took less time than its text would
        raise InputError(not_numbers("a row", model.dtype))
    generated = np.asarray(found.tokens)[:: options.num_beams, : options.gen_len]
    end = time.perf_counter()
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves((prompt.kv, state.generated.kv)))
    return Round(first - start, end - first, generated, cache)


def _generation(options: Options) -> dict[str, Any]:
    """Options of generation, under the names of ours."""
    words = np.random.default_rng(1).integers(1, 1000, (options.bad_words, 2)).tolist()
    return {
        "temperature": 0.0 if options.top_p is None else 1.0,
        "top_k": 0,
        "top_p": options.top_p,
        "num_beams": options.num_beams,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "bad_words": tuple(map(tuple, words)),
    }


def _peer(model: GPTNeoX, options: Options) -> Generate:
    from transformers_peer import TransformersPeer  # only here: torch takes seconds to import

    peer = TransformersPeer(model)
    names = ("num_beams", "repetition_penalty", "no_repeat_ngram_size")
    settings = {name: value for name, value in _generation(options).items() if name in names}
    words = _generation(options)["bad_words"]
    if words:
        settings["bad_words_ids"] = [list(word) for word in words]
    return lambda prompts: Round(*peer.generate(prompts, options.gen_len, **settings))


def _model(options: Options) -> GPTNeoX:
    if (options.model is None) == (options.preset is None):
        raise InputError("give either --model or --preset")
    if options.model is not None:
        return load(
            options.model, **options.origin.how, dtype=options.dtype, quantize=options.quantize
        )
    on_cpu = jax.default_backend() == "cpu"
    dtype = options.dtype or ("float32" if on_cpu else "bfloat16")
    config = preset(options.preset or "")

    @jax.jit
    def init(key: PRNGKeyArray) -> GPTNeoX:
        model = GPTNeoX.init(config, dtype=jnp.dtype(dtype), stacked=not on_cpu, key=key)
        return model.quantized() if options.quantize else model

    return init(jax.random.key(0))


def _prompts(options: Options, length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab_size, (options.batch_size, length))


def _figures(options: Options, model: GPTNeoX, rounds: list[Round]) -> dict[str, Any]:
    """The figures of one system, medians over the rounds."""
    rows, config = options.batch_size, model.config
    seconds = _medians(rounds)
    return {
        "model_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "cache_bytes": rounds[0].cache_bytes,
        "hidden_bytes": rows * options.prompt_len * config.hidden_size * model.dtype.itemsize,
        "peak_bytes": _peak_bytes(),
        "prefill_latency": seconds["prefill"],
        "decode_latency": seconds["decode"],
        "total_latency": seconds["total"],
        "prefill_throughput": rows * options.prompt_len / seconds["prefill"],
        "decode_throughput": rows * (options.gen_len - 1) / seconds["decode"],
        "total_throughput": rows * options.gen_len / seconds["total"],
    }


def _comparison(ours: list[Round], peer: list[Round]) -> dict[str, Any]:
    own, other = _medians(ours), _medians(peer)
    return {
        "peer_latency": other,
        "ratio": {stage: other[stage] / own[stage] for stage in own},
        "equal_tokens": float(np.mean(ours[-1].tokens == peer[-1].tokens)),
    }


def _medians(rounds: list[Round]) -> dict[str, float]:
    return {
        "prefill": statistics.median(one.prefill for one in rounds),
        "decode": statistics.median(one.decode for one in rounds),
        "total": statistics.median(one.prefill + one.decode for one in rounds),
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
        print(f"decode speed of rows that may grow on: {report['roomy_decode_speed']:.3f}")
    if "sampling_share" in report:
        print(f"share of a decode step that sampling takes: {report['sampling_share']:.1%}")
    if "peer" in report:
        ratios = "\t".join(f"{stage} {value:.2f}" for stage, value in report["ratio"].items())
        print(f"times faster than {report['peer']}: {ratios}")
        print(f"equal tokens: {report['equal_tokens']:.1%}")


if __name__ == "__main__":
    run(main, Options)
