"""Documents longer than a row: windows, a cut or nothing, and what is told of it."""

from collections import Counter

import numpy as np
import pytest

from neox_eqx.training.data.dataset import TrainingData
from neox_eqx.training.data.documents import Document
from neox_eqx.training.data.lengths import Counts, TooLong, shorten
from tests.training.documents import document

EOS = 999


def of_length(length: int, given: int) -> Document:
    """Tokens 0, 1, ... and the EOS token at the end."""
    return document(length, np.array([*range(length - 1), EOS]), given=given)


def learnt(documents: list[Document]) -> list[int]:
    """What is predicted: the first token of each never is."""
    return [int(t) for d in documents for t in d.tokens[1:][d.is_learnt[1:]]]


@pytest.mark.parametrize("length", range(1, 26))
@pytest.mark.parametrize("max_length", [2, 3, 8])
def test_every_token_of_a_text_after_the_first_is_learnt_once(length: int, max_length: int) -> None:
    text = of_length(length, given=0)
    kept, counts = shorten([text], max_length)
    assert learnt(kept) == text.tokens[1:].tolist()
    assert counts.learnt_tokens == length - 1
    assert all(1 < len(window.tokens) <= max_length for window in kept)
    assert all(len(window.tokens) == max_length for window in kept[:-1])
    # The end of the text is that of the last window alone.
    assert [EOS in window.tokens for window in kept] == [False] * (len(kept) - 1) + [True] * (
        length > 1
    )
    assert counts.windowed == (length > max_length)
    assert counts.windows == (len(kept) if length > max_length else 0)


@pytest.mark.parametrize("pack", [False, True])
def test_every_window_is_in_every_epoch(pack: bool) -> None:
    texts = [of_length(30, 0), of_length(5, 0)]
    data = TrainingData.of(texts, batch_size=1, max_length=8, pack=pack)
    predicted: Counter[int] = Counter()
    for rows in data.once():
        same = (rows.documents[:, 1:] == rows.documents[:, :-1]) & (rows.documents[:, 1:] > 0)
        predicted.update(rows.tokens[:, 1:][same & (rows.weights[:, 1:] > 0)].tolist())
    assert predicted == Counter(learnt(texts))


def test_an_example_with_a_prompt_loses_nothing_but_what_it_is_told_to() -> None:
    texts = [of_length(*sizes) for sizes in [(8, 3), (9, 3), (9, 0), (12, 8), (1, 0)]]

    def left(too_long: TooLong | None) -> tuple[list[list[int]], dict[str, int]]:
        kept, counts = shorten(texts, 8, too_long)
        numbers = vars(counts)
        names = ("windowed", "windows", "cut", "dropped", "dropped_for_length")
        assert counts.examples == 5 and counts.tokens == sum(len(d.tokens) for d in kept)
        assert counts.learnt_tokens == len(learnt(kept))
        return [[d.number, len(d.tokens)] for d in kept], [numbers[name] for name in names]

    # Dropped: the answer of 9 tokens, that of 12 whose prompt alone is 8, a text of one token.
    assert left(None) == ([[8, 8], [9, 8], [9, 2]], [1, 2, 0, 3, 2])
    assert left("drop") == ([[8, 8]], [0, 0, 0, 4, 3])
    # Nothing of the answer after 8 tokens is left in a cut.
    assert left("cut") == ([[8, 8], [9, 8], [9, 8]], [0, 0, 2, 2, 1])
    # The window that is all prompt has nothing to learn.
    assert left("window") == ([[8, 8], [9, 8], [9, 2], [9, 8], [9, 2], [12, 5]], [3, 5, 0, 1, 0])
    kept, _ = shorten(texts, 8, "window")
    assert learnt(kept) == learnt(texts)


def test_the_count_is_told_in_words() -> None:
    counts = shorten([of_length(20, 0), of_length(7, 2), of_length(30, 2)], 8)[1]
    assert counts.told("are learnt") == (
        "3 examples, 1 of them in 3 windows, 1 dropped; 24 of 29 tokens are learnt"
    )
    as_they_are = shorten([of_length(5, 0), of_length(7, 2)], 8)[1]
    assert as_they_are.told("are learnt") == "2 examples; 9 of 12 tokens are learnt"


def test_many_dropped_examples_are_worth_a_line_with_the_length_that_keeps_most() -> None:
    lengths = np.random.default_rng(0).integers(10, 60, 200)
    counts = shorten([of_length(int(length), 2) for length in lengths], 20)[1]
    # 95 % have it or less, and it is one of the lengths.
    most = int(np.quantile(lengths, 0.95, method="inverted_cdf"))
    dropped = int((lengths > 20).sum())
    assert counts.warning(64) == (
        f"{dropped} of 200 examples are too long: --max-length {most} would keep 95 % of them"
    )
    kept, after = shorten([of_length(int(length), 2) for length in lengths], most)
    assert len(kept) >= 190 and after.warning(64) is None
    assert f"at most {most} tokens, and the model can take 48" in str(counts.warning(48))


@pytest.mark.parametrize(("long", "warns"), [(2, False), (3, True)])
def test_a_tenth_may_be_dropped_in_silence(long: int, warns: bool) -> None:
    texts = [of_length(9, 2)] * long + [of_length(5, 2)] * (20 - long)
    counts: Counts = shorten(texts, 8)[1]
    assert (counts.warning(64) is not None) == warns
    assert shorten(texts, 8, "window")[1].warning(64) is None
