"""What generation knows of a tokenizer."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

TokenBytes = tuple[bytes | None, ...]
"""What each token spells, by its id; None where the tokenizer has no such token."""


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a tokenizer's tokens are to generation: ends of text, allowed or not, and bytes."""

    eos: Sequence[int] = ()
    """The ids that end a text."""
    allowed: Bool[np.ndarray, " V"] | None = None
    """False for ids that are never chosen; None allows all."""
    token_bytes: TokenBytes = ()
    """Needed for requests that stop at texts."""


NO_VOCABULARY = Vocabulary()
