"""What becomes of documents that are longer than a row."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from neox_eqx.training.data.documents import Document

TooLong = Literal["window", "cut", "drop"]

_MANY = 0.1
"""The share of examples that may be dropped for their length without a warning."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What was made of the examples."""

    examples: int
    windowed: int
    """Examples that have become windows."""
    windows: int
    """The windows of all of these examples together."""
    cut: int
    dropped: int
    dropped_for_length: int
    most_have: int
    """The tokens that 95 % of the examples have at most."""
    tokens: int
    """In all rows, prompts included."""
    learnt_tokens: int

    def told(self, use: str) -> str:
        """In words; `use` is what becomes of the tokens that count, as in "are learnt"."""
        changed = {
            f"{self.windowed} of them in {self.windows} windows": self.windowed,
            f"{self.cut} cut": self.cut,
            f"{self.dropped} dropped": self.dropped,
        }
        of_examples = [f"{self.examples} examples", *(said for said in changed if changed[said])]
        return f"{', '.join(of_examples)}; {self.learnt_tokens} of {self.tokens} tokens {use}"

    def warning(self, longest: int) -> str | None:
        """A line where many were dropped for their length; `longest` is what the model can take."""
        if self.dropped_for_length <= _MANY * self.examples:
            return None
        if self.most_have <= longest:
            advice = f"--max-length {self.most_have} would keep 95 % of them"
        else:
            advice = (
                f"95 % have at most {self.most_have} tokens, and the model can take {longest}; "
                "--too-long cut or window keeps a part of them"
            )
        return f"{self.dropped_for_length} of {self.examples} examples are too long: {advice}"


def shorten(
    documents: Sequence[Document], max_length: int, too_long: TooLong | None = None
) -> tuple[list[Document], Counts]:
    """The documents that are trained on, none of them longer than `max_length`.

    A longer one becomes windows, is cut at its end or dropped, as `too_long` says. If that is
    None, a plain text becomes windows, and an example with a prompt is dropped: its answer would be
    learnt without its end, or without its question. A cut document loses its EOS token, and of
    windows only the last has it. Documents with nothing to learn are dropped.
    """
    kept: list[Document] = []
    windowed = windows = cut = dropped = dropped_for_length = 0
    for document in documents:
        is_long = len(document.tokens) > max_length
        way = too_long or ("window" if document.is_learnt.all() else "drop")
        parts = [document]
        if is_long:
            parts = [] if way == "drop" else _windows(document, max_length)
            parts = parts[:1] if way == "cut" else parts
        parts = [part for part in parts if part.learnt]
        if not parts:
            dropped += 1
            dropped_for_length += is_long
        elif is_long and way == "window":
            windowed += 1
            windows += len(parts)
        else:
            cut += is_long
        kept += parts
    counts = Counts(
        examples=len(documents),
        windowed=windowed,
        windows=windows,
        cut=cut,
        dropped=dropped,
        dropped_for_length=dropped_for_length,
        most_have=_most_have(documents),
        tokens=sum(len(document.tokens) for document in kept),
        learnt_tokens=sum(document.learnt for document in kept),
    )
    return kept, counts


def _windows(document: Document, length: int) -> list[Document]:
    """Parts of `length` tokens that share one, the last of one and the first of the next.

    The first of a window is predicted by nothing in it, and was learnt in the window before.
    """
    last = len(document.tokens) - 1
    starts = range(0, last, length - 1) if length > 1 else ()
    return [document.part(start, start + length) for start in starts]


def _most_have(documents: Sequence[Document]) -> int:
    lengths = sorted(len(document.tokens) for document in documents)
    return lengths[math.ceil(0.95 * len(lengths)) - 1]
