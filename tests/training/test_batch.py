"""What a batch says of its tokens: where they stand, what they see and what they learn."""

import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.model.visible import Visible
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from tests.hf_models import pair
from tests.training.peers import CONFIGS, our_gradients, worst

# Two documents with padding before, between, within and after them.
DOCUMENTS = [[0, 1, 1, 0, 1, 0, 2, 2, 2, 0]]


def batch_of(documents: list[list[int]]) -> Batch:
    shape = np.shape(documents)
    tokens = 10 + np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Batch(jnp.asarray(tokens), jnp.asarray(documents), jnp.ones(shape))


def test_positions_count_the_tokens_of_the_own_document() -> None:
    positions = np.asarray(batch_of(DOCUMENTS).positions())[0]
    real = np.array(DOCUMENTS[0]) > 0
    np.testing.assert_array_equal(positions[real], [0, 1, 2, 0, 1, 2])


def test_a_token_sees_itself_and_earlier_ones_of_its_document() -> None:
    mask = np.asarray(Visible(jnp.asarray(DOCUMENTS), packed=True).mask())[0]
    for seer, row in enumerate(mask):
        for seen, visible in enumerate(row):
            same = DOCUMENTS[0][seer] == DOCUMENTS[0][seen] != 0
            assert visible == (same and seen <= seer), (seer, seen)


def test_the_first_token_of_a_document_and_padding_are_not_learnt() -> None:
    batch = batch_of([[1, 1, 1, 2, 2, 0]])
    targets, weights = batch.targets()
    np.testing.assert_array_equal(weights, [[1, 1, 0, 1, 0, 0]])
    np.testing.assert_array_equal(targets[:, :-1], batch.tokens[:, 1:])


@pytest.mark.parametrize(("name", "times"), [("parallel", 1), ("sequential", 1), ("parallel", 30)])
def test_packed_documents_give_what_they_give_in_rows_of_their_own(name: str, times: int) -> None:
    """The longest row attends in blocks, its documents alone with all scores at once."""
    _, model = pair(CONFIGS[name])
    random = np.random.default_rng(0)
    lengths = [times * length for length in (5, 9, 2, 7, 1)]
    texts = [random.integers(0, model.config.vocab_size, length) for length in lengths]
    packed, apart = np.zeros((3, 1, sum(lengths))), np.zeros((3, len(lengths), max(lengths)))
    start = 0
    for number, text in enumerate(texts):
        packed[:, 0, start : start + len(text)] = text, np.full(len(text), number + 1), text % 3
        apart[:, number, : len(text)] = text, np.ones(len(text)), text % 3
        start += len(text)

    def gradients(arrays: np.ndarray) -> tuple:
        tokens, documents, weights = arrays
        batch = Batch(
            jnp.asarray(tokens, jnp.int32),
            jnp.asarray(documents, jnp.int32),
            jnp.asarray(weights, jnp.float32),
        )
        return our_gradients(model, batch, Recipe(steps=1))

    loss, in_one = gradients(packed)
    expected_loss, in_many = gradients(apart)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    # Measured 4e-6.
    assert worst(in_one, in_many) < 2e-5
    packed[1] = 1  # control: one document of all
    loss, in_one = gradients(packed)
    assert abs(loss - expected_loss) > 1e-2 and worst(in_one, in_many) > 1e-2
