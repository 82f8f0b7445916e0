"""Times the scoring of texts beside transformers on the same weights.

python benchmarks/score.py --preset pythia-160m
"""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from neox_eqx import GPTNeoX, InputError
from neox_eqx.benchmarking.transformers_peer import TransformersPeer
from neox_eqx.command_line import run
from neox_eqx.presets import preset
from neox_eqx.scoring.pairs import Pair, score_pairs


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the scores of all tokens of random texts in float32, medians over rounds.

    transformers has them in batches padded to their longest text, of the texts as they come and
    of the texts sorted by length, and takes log-softmax of the logits and the targets' entries.
    """

    preset: str = "pythia-160m"
    """Random weights of this shape."""
    texts: int = 64
    """Texts to score."""
    shortest: int = 20
    """Tokens of the shortest text, 2 at least."""
    longest: int = 400
    """Tokens of the longest text."""
    batch_size: int = 8
    """Texts that run together."""
    rounds: int = 5
    """Timed rounds after one to warm up."""
    json: Path | None = None
    """Write the figures here too."""


Texts = list[list[int]]
Score = Callable[[Texts], list[np.ndarray]]


def main(options: Options) -> None:
    _check(options)
    config = preset(options.preset)
    model = jax.jit(lambda key: GPTNeoX.init(config, key=key))(jax.random.key(0))
    random = np.random.default_rng(0)
    lengths = random.integers(options.shortest, options.longest + 1, options.texts)
    texts = [random.integers(0, config.vocab_size, length).tolist() for length in lengths]
    peer, size = TransformersPeer(model), options.batch_size
    systems: dict[str, Score] = {
        "neox_eqx": lambda texts: _ours(model, texts, size),
        "transformers, as they come": lambda texts: _theirs(peer, texts, range(len(texts)), size),
        "transformers, sorted": lambda texts: _theirs(
            peer, texts, np.argsort(lengths).tolist(), size
        ),
    }
    seconds, largest = _interleaved(systems, texts, options.rounds)
    ours, *theirs = seconds
    report = {
        "tokens": int(lengths.sum()),
        "seconds": seconds,
        "ratio": {name: seconds[name] / seconds[ours] for name in theirs},
        "largest_difference": largest,
    }
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _check(options: Options) -> None:
    if min(options.texts, options.batch_size, options.rounds) < 1:
        raise InputError("--texts, --batch-size and --rounds must be at least 1")
    if not 2 <= options.shortest <= options.longest:
        raise InputError("--shortest must be at least 2 and at most --longest")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"{options.json}: no such directory to write to")


def _interleaved(
    systems: dict[str, Score], texts: Texts, rounds: int
) -> tuple[dict[str, float], float]:
    """Median seconds of each system, run in turn; the largest difference between log-probabilities.

    What compiles or grows does so in a round before.
    """
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds + 1):
        scores = []
        for name, score in systems.items():
            start = time.perf_counter()
            scores.append(np.concatenate(score(texts)))
            times[name].append(time.perf_counter() - start)
    differences = (float(abs(scores[0] - other).max()) for other in scores[1:])
    return {name: statistics.median(own[1:]) for name, own in times.items()}, max(differences)


def _ours(model: GPTNeoX, texts: Texts, batch_size: int) -> list[np.ndarray]:
    pairs = [Pair((text[0],), tuple(text[1:])) for text in texts]
    scores = dict(itertools.chain.from_iterable(score_pairs(model, pairs, batch_size=batch_size)))
    return [np.array(scores[index].logprobs) for index in range(len(texts))]


def _theirs(
    peer: TransformersPeer, texts: Texts, order: Sequence[int], batch_size: int
) -> list[np.ndarray]:
    scores: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        batch = [int(index) for index in order[start : start + batch_size]]
        logprobs = peer.logprobs([texts[index] for index in batch])
        scores |= zip(batch, logprobs, strict=True)
    return [scores[index] for index in range(len(texts))]


def _print(report: dict) -> None:
    for name, seconds in report["seconds"].items():
        print(f"{name}: {seconds:.3f} s\t{report['tokens'] / seconds:.0f} token/s")
    for name, ratio in report["ratio"].items():
        print(f"times faster than {name}: {ratio:.2f}")
    print(f"largest difference of a log-probability: {report['largest_difference']:.1e}")


if __name__ == "__main__":
    run(main, Options)
