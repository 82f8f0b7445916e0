"""Times prefill and decode, and transformers on the same weights if that is asked for.

neox-eqx benchmark --preset pythia-160m --against transformers
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PRNGKeyArray

from neox_eqx import GPTNeoX, InputError, load
from neox_eqx.benchmarking.report import Round, comparison, figures, medians, print_report
from neox_eqx.benchmarking.transformers_peer import TransformersPeer, check_installed
from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.command_line import parse
from neox_eqx.generation.decoding.loop import decode_all, read_prompts
from neox_eqx.generation.decoding.memory import check_memory, free_bytes
from neox_eqx.generation.decoding.not_a_number import not_numbers
from neox_eqx.generation.decoding.run import Request, pad_prompts, strategy_of
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.values import check_number
from neox_eqx.generation.stopping.ending import ERROR
from neox_eqx.model.formats import is_quantized, quantized
from neox_eqx.model.int8_cache import cache_of
from neox_eqx.planning.wish import LARGEST_BATCH
from neox_eqx.presets import preset
from neox_eqx.sizes import size_text

_LEAST = {"batch_size": 1, "prompt_len": 1, "gen_len": 2, "rounds": 1, "bad_words": 0}


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
    quantize: Literal["int8", "int4"] | None = None
    """Round the weights of the layers, and of a head that is not the embedding, to 8 or 4 bits."""
    cache_bits: Literal[8] | None = None
    """Keep keys and values in 8 bits."""
    rounds: int = 5
    """Timed rounds after one to warm up."""
    against: Literal["transformers"] | None = None
    """Run this peer in turn with ours, and print ratios of the medians."""
    json: Path | None = None
    """Write the figures here too."""


Generate = Callable[[np.ndarray], Round]


def main(options: Options) -> None:
    _check(options)
    model = _model(options)
    if options.against and not options.quantize and is_quantized(model):
        raise InputError(f"--against compares the same bits, and {options.model} is in few bits")
    longest, context = options.prompt_len + options.gen_len, model.config.context_length
    if longest > context:
        raise InputError(f"--prompt-len and --gen-len are {longest} positions of {context}")
    own = GenerationOptions(**_generation(options)).resolve({})
    request = Request((0,) * options.prompt_len, own)
    check_memory(model, [request] * options.batch_size, free=free_bytes(model))
    compilations = _CompilationCount()
    prompts = _prompts(options, options.prompt_len, model.config.vocab_size)
    rounds = _interleaved(_systems(options, model), prompts, options.rounds)
    first = compilations.count
    if options.prompt_len > 1:
        shorter = _prompts(options, options.prompt_len - 1, model.config.vocab_size)
        ours(model, shorter, options, longest)
    sizes = (options.batch_size, options.prompt_len, options.gen_len)
    report = figures(model, *sizes, rounds["neox_eqx"])
    report |= {"compilations": first, "compilations_new_length": compilations.count - first}
    if options.cache_len:
        seconds = {name: medians(rounds[name])["decode"] for name in ("neox_eqx", "roomy")}
        report["roomy_decode_speed"] = seconds["neox_eqx"] / seconds["roomy"]
    if options.top_p is not None:
        seconds = {name: medians(rounds[name])["decode"] for name in ("neox_eqx", "greedy")}
        report["sampling_share"] = 1 - seconds["greedy"] / seconds["neox_eqx"]
    if options.against:
        report |= {"peer": options.against} | comparison(rounds["neox_eqx"], rounds["peer"])
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _check(options: Options) -> None:
    for name, least in _LEAST.items():
        option = "--" + name.replace("_", "-")
        check_number(option, getattr(options, name), int, least, LARGEST_BATCH)
    GenerationOptions(**_generation(options)).resolve({})
    if options.cache_len is not None:
        least = options.prompt_len + options.gen_len
        check_number("--cache-len", options.cache_len, int, least, LARGEST_BATCH)
    if options.against and options.top_p is not None:
        raise InputError("--against compares equal tokens; leave out --top-p")
    if options.against and (options.quantize or options.cache_bits):
        raise InputError("--against compares the same bits; leave out --quantize and --cache-bits")
    if options.against:
        check_installed()
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
    prompt, begun = read_prompts(model, tokens, valid, strategy)
    begun.rows.tokens.block_until_ready()
    first = time.perf_counter()
    for state in decode_all(model, (prompt,), begun, strategy, stride=options.gen_len - 1):
        if state.clock >= options.gen_len - 1:  # the first token comes with the prefill
            break
    results = strategy.results(state.rows, state.memory)
    found = state.rows if results is None else results.rows
    if (np.asarray(found.finish) == ERROR).any():  # it ended early, and its time means nothing
        raise InputError(not_numbers("a row", model.dtype))
    generated = np.asarray(found.tokens)[:: options.num_beams, : options.gen_len]
    end = time.perf_counter()
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves((prompt.kv, state.generated.kv)))
    return Round(first - start, end - first, generated, cache)


def _generation(options: Options) -> dict[str, Any]:
    """The options of generation, by their names."""
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
    peer = TransformersPeer(model)
    words = [list(word) for word in _generation(options)["bad_words"]]

    def generate(prompts: np.ndarray) -> Round:
        return Round(
            *peer.generate(
                prompts,
                options.gen_len,
                num_beams=options.num_beams,
                repetition_penalty=options.repetition_penalty,
                no_repeat_ngram_size=options.no_repeat_ngram_size,
                bad_words_ids=words or None,
            )
        )

    return generate


def _model(options: Options) -> GPTNeoX:
    if (options.model is None) == (options.preset is None):
        raise InputError("give either --model or --preset")
    if options.preset is not None:
        options.origin.check_unused("--preset")
    if options.model is not None:
        return load(
            options.model,
            **options.origin.arguments,
            dtype=options.dtype,
            quantize=options.quantize,
            cache_bits=options.cache_bits,
        )
    on_cpu = jax.default_backend() == "cpu"
    # As what `load` makes of a checkpoint in float16, as most of them are.
    as_stored = on_cpu and options.dtype is None
    dtype = options.dtype or ("float16" if on_cpu else "bfloat16")
    config = preset(options.preset or "")

    @jax.jit
    def init(key: PRNGKeyArray) -> GPTNeoX:
        model = GPTNeoX.init(config, dtype=jnp.dtype(dtype), stacked=not on_cpu, key=key)
        if as_stored:
            model = jax.tree.map(lambda x: x if x.ndim > 1 else x.astype(jnp.float32), model)
        model = dataclasses.replace(model, cache=cache_of(options.cache_bits))
        return quantized(model, options.quantize) if options.quantize else model

    key = jax.random.key(0)
    shapes = jax.eval_shape(init, key)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    free = free_bytes(shapes)
    if needed > free:
        raise InputError(
            f"--preset {options.preset}: its parameters take {size_text(needed)} in {dtype}, and "
            f"{size_text(free)} of memory are free; take a smaller preset, or --quantize int8"
        )
    return init(key)


def _prompts(options: Options, length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab_size, (options.batch_size, length))


class _CompilationCount:
    """Counts XLA's compilations from when it is made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def command(program: str, args: Sequence[str]) -> None:
    main(parse(Options, program, args))
