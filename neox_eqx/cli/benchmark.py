"""Times prefill and decode, and transformers or llama.cpp on the same weights if asked for.

neox-eqx benchmark --preset pythia-160m --against transformers
neox-eqx benchmark --preset pythia-160m --quantize int4 --against llama.cpp
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from neox_eqx import GPTNeoX, InputError, load
from neox_eqx.benchmarking import llama_cpp_peer, transformers_peer
from neox_eqx.benchmarking.compilation_count import CompilationCount
from neox_eqx.benchmarking.installed import check_installed
from neox_eqx.benchmarking.random_model import random_model
from neox_eqx.benchmarking.report import Round, comparison, figures, medians, print_report
from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.command_line import parse
from neox_eqx.generation.decoding.loop import decode_all, read_prompts
from neox_eqx.generation.decoding.memory import check_memory, free_bytes
from neox_eqx.generation.decoding.not_a_number import not_numbers
from neox_eqx.generation.decoding.run import Request, pad_prompts, strategy_of
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.values import check_number
from neox_eqx.generation.stopping.ending import ERROR
from neox_eqx.model.formats import is_quantized
from neox_eqx.planning.wish import LARGEST_BATCH

_LEAST = {"batch_size": 1, "prompt_len": 1, "gen_len": 2, "rounds": 1, "bad_words": 0}

# What llama.cpp has not, or has in another way.
_OURS_ALONE = ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "bad_words", "cache_bits")


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
    against: Literal["transformers", "llama.cpp"] | None = None
    """Run this peer in turn with ours, and print ratios of the medians. llama.cpp has the weights
    in the same bits: F32, F16, BF16, Q8_0 or Q4_0."""
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
    compilations = CompilationCount()
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
    if options.against:
        _check_peer(options)
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"{options.json}: no such directory to write to")


def _check_peer(options: Options) -> None:
    if options.top_p is not None:
        raise InputError("--against compares equal tokens; leave out --top-p")
    if options.against == "llama.cpp":
        for name in _OURS_ALONE:
            if getattr(options, name) != getattr(Options, name):
                option = "--" + name.replace("_", "-")
                raise InputError(f"--against llama.cpp compares what both have; leave out {option}")
        check_installed(llama_cpp_peer.NEEDED)
    elif options.quantize or options.cache_bits:
        raise InputError("--against compares the same bits; leave out --quantize and --cache-bits")
    else:
        check_installed(transformers_peer.NEEDED)


def _systems(options: Options, model: GPTNeoX) -> dict[str, Generate]:
    longest = options.prompt_len + options.gen_len
    systems: dict[str, Generate] = {
        "neox_eqx": lambda prompts: ours(model, prompts, options, longest)
    }
    if options.cache_len:
        room = options.cache_len
        systems["roomy"] = lambda prompts: ours(model, prompts, options, room)
    if options.against:
        begin = _llama_cpp if options.against == "llama.cpp" else _transformers
        systems["peer"] = begin(model, options)
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


def _llama_cpp(model: GPTNeoX, options: Options) -> Generate:
    """It rounds the weights itself, from floats."""
    floats = _model(dataclasses.replace(options, quantize=None)) if options.quantize else model
    peer = llama_cpp_peer.LlamaCppPeer(
        floats,
        options.quantize or floats.embed_in.weight.dtype.name,
        rows=options.batch_size,
        positions=options.prompt_len + options.gen_len,
    )
    return lambda prompts: Round(*peer.generate(prompts, options.gen_len))


def _transformers(model: GPTNeoX, options: Options) -> Generate:
    peer = transformers_peer.TransformersPeer(model)
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
    if options.model is not None:
        return load(
            options.model,
            **options.origin.arguments,
            dtype=options.dtype,
            quantize=options.quantize,
            cache_bits=options.cache_bits,
        )
    options.origin.check_unused("--preset")
    return random_model(
        options.preset or "",
        dtype=options.dtype,
        quantize=options.quantize,
        cache_bits=options.cache_bits,
    )


def _prompts(options: Options, length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab_size, (options.batch_size, length))


def command(program: str, args: Sequence[str]) -> None:
    main(parse(Options, program, args))
