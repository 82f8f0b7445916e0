"""What tells one checkpoint from another of the same config."""

import hashlib
from collections.abc import Mapping

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.merged import MergedEntry


def fingerprint(tensors: Mapping[str, Entry], *, first_rows: bool = False) -> str:
    """A hash of the tensors' names, dtypes and shapes, of norms and biases, and what LoRA adds.

    Every host of a pod reads these; of the matrices a host's disk may hold its own share alone.
    With `first_rows` the first row of each matrix counts too: LoRA may have changed nothing else.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(tensors.items()):
        digest.update(repr((name, entry.dtype, entry.shape)).encode())
        if isinstance(entry, MergedEntry):
            digest.update(repr(entry.scale).encode())
            digest.update(entry.left.tobytes() + entry.right.tobytes())
        if len(entry.shape) == 1:
            digest.update(entry.read((slice(None),)).tobytes())
        elif first_rows:
            digest.update(entry.read((slice(1), slice(None))).tobytes())
    return digest.hexdigest()
