"""Batches: every row once an epoch, in an order that hangs on the seed and the step alone."""

from collections import Counter

import jax
import numpy as np
import pytest

from neox_eqx.errors import InputError
from neox_eqx.presets import PRESETS
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.dataset import TrainingData, to_devices
from neox_eqx.training.data.documents import Document
from neox_eqx.training.data.order import packed, rows_of_batch
from tests.training.documents import document


def documents(lengths: list[int]) -> list[Document]:
    """Of distinct tokens each; a third of each is given, and 1000 is the number of the first."""
    tokens = np.split(np.arange(1, sum(lengths) + 1, dtype=np.int32), np.cumsum(lengths)[:-1])
    return [document(1000 + number, own, given=len(own) // 3) for number, own in enumerate(tokens)]


LENGTHS = [5, 3, 7, 2, 6, 4, 3, 5, 2, 7, 4]
SETTINGS = {"batch_size": 3, "max_length": 12, "seed": 3}
ORDER = [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]
PACKED = [{"pack": False}, {"pack": True}]


def test_the_order_is_what_it_was_in_all_versions() -> None:
    assert rows_of_batch(0, 10, 10, seed=1) == ORDER
    assert rows_of_batch(1, 5, 10, seed=1) == ORDER[5:]


@pytest.mark.parametrize("own", PACKED)
def test_every_epoch_has_every_document_once_and_no_batch_is_smaller(own: dict) -> None:
    data = TrainingData.of(documents(LENGTHS), **SETTINGS, **own)
    epochs = 3  # a batch and an epoch then end together
    assert len(data.rows) % 3 and data.steps(epochs) == len(data.rows)
    assert data.steps(1) == len(data.rows) // 3 + 1
    seen = Counter(number for step in range(data.steps(epochs)) for number in data.ids(step))
    assert seen == {document.number: epochs for document in data.documents}
    rows = [row for step in range(data.steps(epochs)) for row in data.batch(step).tokens.tolist()]
    first, second, *_ = np.split(np.array(rows), epochs)
    assert not (first == second).all()
    np.testing.assert_array_equal(np.sort(first, 0), np.sort(second, 0))


@pytest.mark.parametrize("own", PACKED)
def test_a_batch_is_the_same_whatever_was_asked_for_before(own: dict) -> None:
    whole = TrainingData.of(documents(LENGTHS), **SETTINGS, **own)
    batches = [whole.batch(step) for step in range(9)]
    for step in (7, 2, 8):
        resumed = TrainingData.of(documents(LENGTHS), **SETTINGS, **own)
        for one, other in zip(resumed.batch(step), batches[step], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("own", PACKED)
def test_rows_hold_whole_documents_with_the_weights_of_what_is_learnt(own: dict) -> None:
    data = TrainingData.of(documents(LENGTHS), **SETTINGS, **own)
    of_number = {document.number: document for document in data.documents}
    for step in range(3):
        rows = data.batch(step)
        assert rows.tokens.dtype == rows.documents.dtype == np.int32
        assert rows.weights.dtype == np.float32
        ids = iter(data.ids(step))
        for tokens, numbers, weights in zip(*rows, strict=True):
            assert len(tokens) == 12 and not tokens[numbers == 0].any()
            assert (np.diff(numbers[numbers > 0]) >= 0).all()
            for number in range(1, numbers.max() + 1):
                own = of_number[next(ids)]
                assert tokens[numbers == number].tolist() == own.tokens.tolist()
                assert weights[numbers == number].tolist() == own.is_learnt.tolist()
            assert not weights[numbers == 0].any()
        assert next(ids, None) is None


def test_rows_are_packed_tightly() -> None:
    assert sorted(map(sorted, packed([6, 4, 3, 3, 2, 2], 10))) == [[0, 1], [2, 3, 4, 5]]
    lengths = np.random.default_rng(0).integers(1, 33, 500).tolist()
    rows = packed(lengths, 64)
    assert sorted(index for row in rows for index in row) == list(range(500))
    assert all(sum(lengths[index] for index in row) <= 64 for row in rows)
    assert len(rows) <= 1.02 * sum(lengths) / 64


def test_rows_that_are_not_packed_are_no_longer_than_needed() -> None:
    def length(longest: int, most: int) -> int:
        data = TrainingData.of(documents([5, longest]), batch_size=2, max_length=most)
        assert data.batch(0).tokens.shape == (2, data.row_length)
        return data.row_length

    assert (length(7, 12), length(64, 512), length(65, 512)) == (12, 64, 128)


def test_once_gives_every_document_once_and_fills_up_with_nothing() -> None:
    data = TrainingData.of(documents(LENGTHS), **SETTINGS)
    batches = list(data.once())
    tokens = np.concatenate([rows.tokens[rows.documents > 0] for rows in batches])
    assert tokens.tolist() == list(range(1, sum(LENGTHS) + 1))
    assert {rows.tokens.shape for rows in batches} == {(3, 12)}
    assert not batches[-1].documents[-1].any() and not batches[-1].weights[-1].any()


def test_the_fingerprint_is_of_all_that_the_batches_hang_on() -> None:
    def fingerprint(lengths: list[int] = LENGTHS, given: int = 1, more: int = 0, **own) -> str:
        first, *rest = documents(lengths)
        first = document(first.number, first.tokens + more, given=given)
        return TrainingData.of([first, *rest], **{**SETTINGS, **own}).fingerprint

    assert fingerprint() == fingerprint()
    others = [
        fingerprint(LENGTHS[::-1]),
        fingerprint(given=2),
        fingerprint(more=1),
        fingerprint(batch_size=2),
        fingerprint(seed=4),
        fingerprint(max_length=13),
        fingerprint(pack=True),
    ]
    assert len({fingerprint(), *others}) == 8


def test_a_fingerprint_of_prompts_and_completions_is_what_it_was() -> None:
    """Runs that began before there were conversations go on; the figures are those of then."""
    data = TrainingData.of(
        [document(1, np.arange(5), given=2), document(2, np.arange(3))], batch_size=2, max_length=8
    )
    assert data.fingerprint.startswith("e48ba83abb993ae0db60666913e61ede")


def test_a_fingerprint_tells_apart_what_is_learnt_in_several_places() -> None:
    def fingerprint(*learnt: bool) -> str:
        own = Document(1, np.arange(5, dtype=np.int32), np.array(learnt))
        return TrainingData.of([own], batch_size=1, max_length=8).fingerprint

    turns = [(0, 1, 1, 1, 1), (0, 1, 0, 1, 1), (0, 1, 0, 0, 1), (0, 1, 1, 1, 0)]
    assert len({fingerprint(*map(bool, learnt)) for learnt in turns}) == 4


def test_data_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InputError, match="all 2 examples are too long for max_length 8"):
        TrainingData.of(documents([9, 12]), batch_size=2, max_length=8)


def test_rows_are_placed_over_the_data_axis() -> None:
    rows = TrainingData.of(documents(LENGTHS), **{**SETTINGS, "batch_size": 4}).batch(0)
    mesh = make_mesh(PRESETS["pythia-70m"], "data=4,model=2")
    alone, spread = to_devices(rows, None), to_devices(rows, mesh)
    for whole, one, many in zip(rows, jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(whole, one)
        np.testing.assert_array_equal(whole, many)
        assert one.dtype == many.dtype == whole.dtype
        assert {shard.data.shape for shard in many.addressable_shards} == {(1, 12)}
