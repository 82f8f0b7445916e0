"""A row whose logits are no numbers ends alone: the others are as they would be without it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.generation.run import Request, Row
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import family

BAD = 7
"""A token whose embedding is NaN: a text fails from it on."""
PROMPTS = [
    tuple(8 if token == BAD else token for token in prompt)
    for prompt in random_prompts(128, (9, 3, 14, 1, 6, 5, 2))
]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": dict(temperature=1.5, top_k=40, top_p=0.9, seed=3, num_samples=2),
    "beams": dict(num_beams=3, num_return_sequences=2),
}


def with_bad_token(model: GPTNeoX) -> GPTNeoX:
    weight = model.embed_in.weight.at[BAD].set(jnp.nan)
    return eqx.tree_at(lambda m: m.embed_in.weight, model, weight)


MODEL = with_bad_token(family("pythia-70m")[1])


def good(**own: Any) -> list[Request]:
    """None of them ever meets the bad token."""
    return [request(p, suppress_tokens=(BAD,), max_new_tokens=9, **own) for p in PROMPTS]


def assert_failed(rows: list[Row], token: int) -> None:
    for row in rows:
        assert row.finish_reason == "error" and row.error is not None
        assert f"the model's logits for token {token} of the completion are NaN" in row.error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("others", [1, 7])
def test_a_row_that_fails_changes_no_other(way: str, others: int) -> None:
    own = WAYS[way]
    each = 1 if way == "greedy" else 2
    requests = good(**own)[:others]
    bad = request((4, BAD, 5), max_new_tokens=9, **own)
    rows = ours(MODEL, [bad, *requests])
    assert_failed(rows[:each], token=1)
    assert tokens(rows[:each]) == [()] * each
    expected = ours(MODEL, requests)
    assert tokens(rows[each:]) == tokens(expected)
    for row, alone in zip(rows[each:], expected, strict=True):
        assert row.finish_reason == alone.finish_reason == "length"
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_fails_later_keeps_what_came_before(way: str) -> None:
    """It is driven to the bad token, which it still chooses, and nothing follows that."""
    own = WAYS[way]
    driven = request(PROMPTS[0], logit_bias={BAD: 1e6}, max_new_tokens=9, **own)
    *failed, other = ours(MODEL, [driven, good(**own)[1]])[: 2 if way == "greedy" else 3]
    assert_failed(failed, token=2)
    assert tokens(failed) == [()] * 2 if way == "beams" else [(BAD,)] * len(failed)
    assert other.finish_reason == "length" and len(other.tokens) == 9
