"""What scores come of, in a few letters: by them a run that goes on knows rows as its own."""

from collections.abc import Sequence

from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.scoring.encode import Text
from neox_eqx.scoring.pairs import Pair
from neox_eqx.text.subject import digest, subject_of_model


def subject(
    model: GPTNeoX,
    texts: Sequence[Text | InputError],
    pairs: Sequence[Pair | InputError],
    top_candidates: int,
) -> dict[str, str]:
    """All that the rows of these texts come of; `pairs` are the tokens that a tokenizer made.

    An error stands where there is no text, or no tokens that can be scored.
    """
    return {
        **subject_of_model(model),
        "input": digest(zip(texts, pairs, strict=True)),
        "number of candidates": str(top_candidates),
    }
