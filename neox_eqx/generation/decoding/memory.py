"""Whether a batch fits into memory, told before anything of it is there.

What is counted are the arrays that grow with what a request asks for: it may need somewhat more.
"""

from collections.abc import Sequence

import jax
import psutil

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.decoding.state import FIRST_SLOTS
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.model.kernels.blocks import BLOCK, Blocks
from neox_eqx.model.long import CHUNK
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sizes import size_text

_NUMBER = 4  # bytes of a float32 or an int32
_CPU_COPIES = 3
"""Of scores, their softmax and a copy on the way, measured with 1,000 beams. An accelerator's
compiler fuses them in other ways: one is counted, as nothing is refused that may run."""


def check_memory(
    model: GPTNeoX,
    requests: Sequence[Request],
    *,
    free: int,
    batch_mates: Sequence[ResolvedOptions] = (),
    tokens_spelled: int = 0,
) -> None:
    """Raises where a batch needs more memory than is free, however few tokens it generates.

    `free` is what `free_bytes` tells, asked once for many batches. `batch_mates` are those of
    `run`, and `tokens_spelled` is the number of its vocabulary's `token_bytes`.

    Raises:
        InputError: says how much it needs, how much there is, and what it is for.
    """
    needed = bytes_needed(model, requests, batch_mates=batch_mates, tokens_spelled=tokens_spelled)
    if sum(needed.values()) <= free:
        return
    most = max(needed, key=needed.__getitem__)
    raise InputError(
        f"a batch of {len(requests)} needs {size_text(sum(needed.values()))} of "
        f"memory, {size_text(needed[most])} of it for {most}, and {size_text(free)} are free; "
        "ask for less of it, or give a smaller --batch-size"
    )


def bytes_needed(
    model: GPTNeoX,
    requests: Sequence[Request],
    *,
    batch_mates: Sequence[ResolvedOptions] = (),
    tokens_spelled: int,
) -> dict[str, int]:
    """Bytes for each purpose when the rows choose their second token; they may grow from there."""
    options = [request.options for request in requests]
    every, beams, prompts = [*options, *batch_mates], options[0].num_beams, len(requests)
    rows = prompts * max(beams, options[0].num_samples)
    kind = "rows" if rows == prompts else "beams" if beams > 1 else "samples"
    heads, config = model.num_heads, model.config
    slot = model.slot_bytes
    slots = bucket(max(len(request.tokens) for request in requests))
    seen = slots + FIRST_SLOTS * beams  # beams see the slots of all beams of their prompt
    platform = _devices(model)[0].platform
    copies = _CPU_COPIES if platform == "cpu" else 1
    pairs = BLOCK**2 if Blocks.fits(slots, platform) else slots**2
    at_once = min(slots, CHUNK) if platform == "cpu" else slots
    reading = prompts * (heads * pairs + at_once * config.intermediate_size)
    choosing = rows * (heads * seen + config.vocab_size)
    return {
        f"the keys and values of {rows} {kind}": slot * (prompts * slots + rows * FIRST_SLOTS),
        f"what {rows} {kind} see of them": rows * seen,
        f"the scores of {rows} {kind}": copies * _NUMBER * max(reading, choosing),
        "bad_words": _words([row.bad_words_ids for row in every], rows),
        "logit_bias": _words([[ids for ids, _ in row.sequence_bias] for row in every], rows),
        "stop": _words([row.stop_sequences for row in every], rows)
        + _strings([row.stop_strings for row in options], tokens_spelled),
    }


def free_bytes(model: GPTNeoX) -> int:
    """Bytes free on the model's devices, or in the hosts' memory where devices tell nothing.

    Each process of a pod can ask for its own alone, and takes the others to be like it.
    """
    stats = [device.memory_stats() for device in _devices(model) if device.platform != "cpu"]
    if stats and all(own and "bytes_limit" in own for own in stats):
        free = sum(own["bytes_limit"] - own["bytes_in_use"] for own in stats)
    else:
        free = psutil.virtual_memory().available
    return free * jax.process_count()


def _devices(model: GPTNeoX) -> list[jax.Device]:
    """Those of this process."""
    return list(model.mesh.local_devices) if model.mesh else jax.local_devices()[:1]


def _words(every: Sequence[Sequence[tuple[int, ...]]], rows: int) -> int:
    """Bytes of the ids of all rows, as `Words` pads them."""
    longest = max((len(word) for words in every for word in words), default=0)
    length = longest if longest < 2 else bucket(longest)
    return _NUMBER * rows * bucket(max(map(len, every))) * length


def _strings(every: Sequence[Sequence[str]], tokens_spelled: int) -> int:
    """Bytes of the table of `StopStrings`: a state for each byte, after each token."""
    texts = {text for texts in every for text in texts}
    return _NUMBER * tokens_spelled * sum(len(text.encode()) for text in texts)
