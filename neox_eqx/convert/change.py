"""What rounding to few bits changes: the weights, and on a text logits and perplexity."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from neox_eqx.checkpoint.entry import blocks
from neox_eqx.checkpoint.few_bits import FewBits
from neox_eqx.checkpoint.load import LoadOptions, load_checkpoint
from neox_eqx.convert.memory import shortage
from neox_eqx.convert.source import Source
from neox_eqx.convert.words import Sample, Text
from neox_eqx.model.neox import GPTNeoX

_CHUNK = 64
"""Positions whose logits exist at a time."""
_BYTES = 5
"""Of a parameter in both models: four in float32, and about one at most in few bits."""


def change(
    source: Source, result: Source, form: str, text: Text | None, sample: Sample | None
) -> dict[str, Any]:
    """For the certificate: how far weights are off, and what that does on the text.

    `form` is the name of the form, and `sample` what the rounding was calibrated on.
    """
    calibrated = {} if sample is None else {"calibrated_on": sample.description}
    given = {"skipped": "no text was given"} if text is None else _on_text(source, result, text)
    return {"form": form, **calibrated, **_of_weights(source, result), "text": given}


def _of_weights(source: Source, result: Source) -> dict[str, Any]:
    """The rms of differences over that of the weights: of all weights, and of the worst tensor."""
    exact = {entry.name: entry for entry in source.entries}
    sums: dict[str, np.ndarray] = {}
    rounded = [entry for entry in result.entries if isinstance(entry, FewBits)]
    for entry in tqdm(rounded, desc="Measuring", disable=None):
        sums[entry.name] = np.zeros(2)
        columns = slice(0, entry.shape[1])
        for first, block in blocks(entry, (slice(0, entry.shape[0]), columns), entry.dtype):
            own = exact[entry.name].read((slice(first, first + len(block)), columns))
            own = own.astype(np.float64)  # whose squares are finite
            sums[entry.name] += [np.vdot(block - own, block - own), np.vdot(own, own)]
    shares = {name: _share(*own) for name, own in sums.items()}
    off, whole = (sum(one[which] for one in sums.values()) for which in (0, 1))
    worst = max(shares, key=lambda name: shares[name])
    return {
        "relative_error": _share(off, whole),
        "largest_relative_error": {"tensor": worst, "of": shares[worst]},
    }


def _share(off: float, whole: float) -> float:
    return math.sqrt(off / whole) if whole else 0.0


def _on_text(source: Source, result: Source, text: Text) -> dict[str, Any]:
    if short := shortage(result.entries, bytes_each=_BYTES):
        both = "both models need {} of memory, and {} are free".format(*short)
        return {**text.description, "skipped": both}
    exact, few = (
        load_checkpoint(one.checkpoint, LoadOptions(dtype="float32", stacked=True))
        for one in (source, result)
    )
    length = min(exact.config.context_length, len(text.tokens))
    starts = range(0, len(text.tokens) - 1, length)
    with jax.default_matmul_precision("highest"):
        found = [
            _in_window(exact, few, text.tokens[start : start + length + 1], length)
            for start in tqdm(starts, desc="Comparing", disable=None)
        ]
    *columns, largest = zip(*found, strict=True)
    scored, before, after, off, whole, same = map(sum, columns)
    with np.errstate(over="ignore"):
        perplexities = np.exp([before / scored, after / scored])
    if not np.isfinite([off, whole, *perplexities]).all():
        return {**text.description, "skipped": "logits or perplexity are not finite, in float32"}
    numbers = scored * exact.config.vocab_size
    return {
        **text.description,
        "tokens": int(scored),
        "source_perplexity": float(perplexities[0]),
        "perplexity": float(perplexities[1]),
        "logit_difference_rms": math.sqrt(off / numbers),
        "largest_logit_difference": max(largest),
        "logit_rms": math.sqrt(whole / numbers),
        "likeliest_tokens_agreeing": int(same),
    }


def _in_window(exact: GPTNeoX, few: GPTNeoX, tokens: Sequence[int], length: int) -> list[float]:
    """Sums over the tokens that are scored, which are all but the first; see `_compared`."""
    full = -(-length // _CHUNK) * _CHUNK
    own, targets = np.zeros((2, full), np.int32)
    own[: len(tokens) - 1], targets[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    scored = np.arange(full) < len(tokens) - 1
    rows = jnp.asarray(own[None]), jnp.asarray(scored[None])
    before, after = (_hidden(model, *rows)[0] for model in (exact, few))
    parts = [
        _compared(exact, few, before[at], after[at], jnp.asarray(targets[at]), rows[1][0, at])
        for at in (slice(first, first + _CHUNK) for first in range(0, full, _CHUNK))
    ]
    *sums, most = np.stack(jax.device_get(parts)).T
    return [*(float(one.sum(dtype=np.float64)) for one in sums), float(most.max())]


@eqx.filter_jit
def _hidden(
    model: GPTNeoX, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    return model(tokens, valid)[0]


@eqx.filter_jit
def _compared(
    exact: GPTNeoX,
    few: GPTNeoX,
    before: Float[Array, "T D"],
    after: Float[Array, "T D"],
    targets: Int[Array, "T"],
    scored: Bool[Array, "T"],
) -> Float[Array, "7"]:
    """Of the tokens that are scored: how many there are, the two models' sums of -log p, the sum of
    squared differences of logits and of squared logits, how many have the same likeliest next
    token, and the largest difference.
    """
    ours, theirs = few.logits(after), exact.logits(before)
    off = jnp.where(scored[:, None], ours - theirs, 0)
    of_target = [
        -jnp.take_along_axis(jax.nn.log_softmax(one), targets[:, None], 1)[:, 0]
        for one in (theirs, ours)
    ]
    sums = [
        jnp.where(scored, one, 0).sum()
        for one in (
            jnp.ones(len(targets)),
            *of_target,
            jnp.square(off).sum(-1),
            jnp.square(theirs).sum(-1),
            (ours.argmax(-1) == theirs.argmax(-1)).astype(jnp.float32),
        )
    ]
    return jnp.stack([*sums, abs(off).max()])
