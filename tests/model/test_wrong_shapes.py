"""Arrays of other shapes than a batch's get a line that says which are expected."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.read_write import prefill
from neox_eqx.model.neox import GPTNeoX
from tests.unchecked import unchecked

TOKENS = jnp.array([5, 6, 7])
VALID = jnp.ones(3, bool)
CALLS: dict[str, Callable[[GPTNeoX], Any]] = {
    "tokens must have the shape (rows, length), not (3,)": lambda model: model(TOKENS, VALID),
    "tokens must be an array, not of type list": lambda model: model([[5, 6, 7]], VALID[None]),
    "valid must have the shape of tokens, (1, 3), not (3,)": lambda model: model(
        TOKENS[None], VALID
    ),
    "embeddings must have the shape (rows, length, hidden size), not (3, 32)": lambda model: (
        model.read(jnp.zeros((3, 32)), VALID)
    ),
    "tokens and lengths must have the shapes (rows, length) and (rows,), not (3,) and ()": (
        lambda model: Chunk(np.array([5, 6, 7], np.int32), np.array(3))
    ),
    "prefill takes a Chunk, not Array([5, 6, 7]": lambda model: prefill(model, [], TOKENS),
}


@pytest.mark.parametrize("message", CALLS)
def test_the_shape_that_is_expected_is_named(message: str) -> None:
    model = GPTNeoX.init(GPTNeoXConfig(64, 32, 1, 4, 128), key=jax.random.key(0))
    with unchecked(), pytest.raises(InputError, match=re.escape(message)):
        CALLS[message](model)


@pytest.mark.parametrize("rows", [[5, 6], TOKENS, [[5.5]], [[True]], ["56"], [[2**40]], [[[5]]]])
def test_a_row_of_a_chunk_is_a_list_of_token_ids(rows: Any) -> None:
    with unchecked(), pytest.raises(InputError, match="must be a list of token ids, not "):
        Chunk.of(rows)


def test_a_chunk_is_made_of_arrays_too() -> None:
    with unchecked():
        assert Chunk.of(TOKENS[None]).rows == Chunk.of([[5, 6, 7]]).rows
