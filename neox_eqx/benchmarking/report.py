"""What a benchmark of generation measured: its figures, and how they are printed."""

import dataclasses
import resource
import statistics
import sys
from typing import Any

import jax
import numpy as np

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sizes import size_text


@dataclasses.dataclass(frozen=True)
class Round:
    """One timed generation: seconds until the first token and for the others, and the tokens."""

    prefill: float
    decode: float
    tokens: np.ndarray
    cache_bytes: int = 0


def figures(
    model: GPTNeoX, rows: int, prompt_len: int, gen_len: int, rounds: list[Round]
) -> dict[str, Any]:
    """The figures of one system: medians over its rounds."""
    config, seconds = model.config, medians(rounds)
    return {
        "model_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "cache_bytes": rounds[0].cache_bytes,
        "hidden_bytes": rows * prompt_len * config.hidden_size * model.dtype.itemsize,
        "peak_bytes": _peak_bytes(),
        "prefill_latency": seconds["prefill"],
        "decode_latency": seconds["decode"],
        "total_latency": seconds["total"],
        "prefill_throughput": rows * prompt_len / seconds["prefill"],
        "decode_throughput": rows * (gen_len - 1) / seconds["decode"],
        "total_throughput": rows * gen_len / seconds["total"],
    }


def comparison(ours: list[Round], peer: list[Round]) -> dict[str, Any]:
    """How many times faster ours is, and whether the tokens are equal."""
    own, other = medians(ours), medians(peer)
    return {
        "peer_latency": other,
        "ratio": {stage: other[stage] / own[stage] for stage in own},
        "equal_tokens": float(np.mean(ours[-1].tokens == peer[-1].tokens)),
    }


def medians(rounds: list[Round]) -> dict[str, float]:
    """The median seconds of each stage."""
    return {
        "prefill": statistics.median(one.prefill for one in rounds),
        "decode": statistics.median(one.decode for one in rounds),
        "total": statistics.median(one.prefill + one.decode for one in rounds),
    }


def _peak_bytes() -> int:
    """The peak of the device's memory where the device counts it, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    unit = 1 if sys.platform == "darwin" else 1024
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_report(report: dict[str, Any]) -> None:
    """The lines that FlexGen's benchmark prints, and what else was measured."""
    print(
        f"model size: {size_text(report['model_bytes'])}\t"
        f"cache size: {size_text(report['cache_bytes'])}\t"
        f"hidden size (prefill): {size_text(report['hidden_bytes'])}"
    )
    both = " (of both systems)" if "peer" in report else ""
    print(f"peak memory: {size_text(report['peak_bytes'])}{both}")
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
