"""What tells one checkpoint from another of the same config."""

import hashlib
from collections.abc import Mapping

from neox_eqx.checkpoint.entry import Entry


def fingerprint(tensors: Mapping[str, Entry]) -> str:
    """A hash of the tensors' names, dtypes and shapes, and of a little of the data of each.

    That is all of a norm or a bias and the first row of a matrix, which LoRA too has changed.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(tensors.items()):
        digest.update(repr((name, entry.dtype, entry.shape)).encode())
        digest.update(entry.read(_sample(entry)).tobytes())
    return digest.hexdigest()


def _sample(entry: Entry) -> tuple[slice, ...]:
    whole = (slice(None),) * len(entry.shape)
    return (slice(1), *whole[1:]) if len(whole) > 1 else whole
