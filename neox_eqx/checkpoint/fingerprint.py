"""What tells one checkpoint from another of the same config."""

import hashlib
from collections.abc import Mapping

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.merged import MergedEntry


def fingerprint(tensors: Mapping[str, Entry], *, first_rows: bool = False) -> str:
    """A hash of the tensors' names, dtypes and shapes, of norms and biases, and what LoRA adds.

    These every host of a pod needs, where a disk may have no more than its host's share of the
    matrices. With `first_rows` those of matrices count too, which LoRA alone has changed.
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
