"""Whether the head is the embedding: transformers' rules, which trust the tensors over config.json.

tie_word_embeddings   head in the files        model
true                  absent, or a copy        shared
true                  another one              its own, with a warning
true                  there, no embedding      shared
false                 there                    its own
false                 absent                   an error: transformers makes up a random one
"""

import dataclasses
import warnings

import numpy as np

from neox_eqx.checkpoint.entry import Entry, FileEntry, blocks
from neox_eqx.checkpoint.names import EMBEDDING, HEAD
from neox_eqx.config import GPTNeoXConfig


def rename_shared_head(config: GPTNeoXConfig, tensors: dict[str, Entry]) -> dict[str, Entry]:
    """The tensors; where the shared matrix was saved as the head alone, as the embedding."""
    if not config.tie_word_embeddings or EMBEDDING in tensors or HEAD not in tensors:
        return tensors
    return {EMBEDDING if name == HEAD else name: entry for name, entry in tensors.items()}


def settle_tying(
    config: GPTNeoXConfig, tensors: dict[str, Entry], dtype: np.dtype
) -> GPTNeoXConfig:
    """The config with `tie_word_embeddings` as the tensors have it once they are `dtype`."""
    if not config.tie_word_embeddings or HEAD not in tensors:
        return config
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    if isinstance(head, FileEntry) and dataclasses.replace(head, name=embedding.name) == embedding:
        return config  # the same bytes under two names
    whole = (slice(None), slice(None))
    pairs = zip(blocks(head, whole, dtype), blocks(embedding, whole, dtype), strict=True)
    if all(np.array_equal(ours, theirs) for (_, ours), (_, theirs) in pairs):
        return config
    warnings.warn(
        f"{head.path}: tie_word_embeddings is true but {head.name} differs from "
        f"{embedding.name}; the stored head is used",
        stacklevel=4,
    )
    return dataclasses.replace(config, tie_word_embeddings=False)
