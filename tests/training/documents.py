"""Documents to train on, of given tokens."""

import numpy as np

from neox_eqx.training.data.documents import Document


def document(number: int, tokens: np.ndarray, *, given: int = 0) -> Document:
    """Learnt from the token `given` on."""
    return Document(number, tokens.astype(np.int32), np.arange(len(tokens)) >= given)
