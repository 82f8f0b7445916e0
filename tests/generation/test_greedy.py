"""Greedy completions are transformers', token for token, with their log-probabilities."""

import functools

import numpy as np
import pytest
from scipy.special import log_softmax
from transformers import GPTNeoXForCausalLM

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import pad_prompts
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import (
    Prompts,
    ours,
    random_prompts,
    request,
    theirs,
    theirs_alone,
    tokens,
)
from tests.hf_models import config_json, family, hf_logits, our_logits, pair, stack_layers

FAMILIES = (
    "pythia-70m",
    "redpajama-3b",
    "line-3.6b",
    "gpt-neox-20b",
    "pythia-2.8b-anneal",
    "polyglot-ko-1.3b",
)
LENGTHS = (5, 1, 17, 12)
# Sums of 30 float32 log-probabilities. Measured: at most 2e-5.
TOLERANCE = 1e-4


@functools.cache
def long_pair() -> tuple[GPTNeoXForCausalLM, GPTNeoX]:
    return pair(config_json(32, 2, max_position_embeddings=256, rotary_pct=0.5, vocab_size=80))


def eos_ids(free: Prompts) -> tuple[int, ...]:
    """Two ids that end the rows of these endless completions at different steps."""
    return free[0][9], free[2][4]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_uneven_prompts_gives_the_tokens_of_transformers(name: str) -> None:
    hf, model = family(name)
    prompts = random_prompts(model.config.vocab_size, LENGTHS)
    rows = ours(model, [request(prompt, max_new_tokens=24) for prompt in prompts])
    expected, logprobs = theirs_alone(hf, prompts, 24)
    assert tokens(rows) == expected
    assert tokens(rows) == theirs(hf, prompts, 24)[0]
    np.testing.assert_allclose([row.logprob for row in rows], logprobs, atol=TOLERANCE, rtol=0)
    assert {row.finish_reason for row in rows} == {"length"}


@pytest.mark.parametrize("stacked", [False, True])
def test_each_row_ends_at_the_first_of_several_eos_ids_that_it_meets(stacked: bool) -> None:
    hf, model = family("pythia-70m")
    prompts = random_prompts(model.config.vocab_size, LENGTHS)
    eos = eos_ids(theirs(hf, prompts, 24)[0])
    expected, logprobs = theirs(hf, prompts, 24, eos)
    lengths = [len(row) for row in expected]
    assert len(set(lengths)) > 2 and min(lengths) < 10  # the batch goes on without some rows

    model = stack_layers(model) if stacked else model
    rows = ours(model, [request(prompt, max_new_tokens=24) for prompt in prompts], eos)
    assert tokens(rows) == expected == theirs_alone(hf, prompts, 24, eos)[0]
    np.testing.assert_allclose([row.logprob for row in rows], logprobs, atol=TOLERANCE, rtol=0)
    ended = [generated[-1] in eos for generated in expected]
    assert [row.finish_reason == "eos" for row in rows] == ended


def test_an_eos_as_the_last_token_allowed_counts_as_eos() -> None:
    hf, model = family("pythia-70m")
    prompts = random_prompts(model.config.vocab_size, LENGTHS)
    ((*_, last),), _ = theirs(hf, prompts[:1], 5)
    first = theirs(hf, prompts[:1], 5)[0][0].index(last) + 1
    (row,) = ours(model, [request(prompts[0], max_new_tokens=first)], [last])
    assert (row.finish_reason, len(row.tokens)) == ("eos", first)


@pytest.mark.parametrize("stacked", [False, True])
def test_slots_double_past_64_and_128_tokens_without_a_trace(stacked: bool) -> None:
    hf, model = long_pair()
    prompts = random_prompts(80, (3, 9))
    expected, logprobs = theirs(hf, prompts, 150)
    model = stack_layers(model) if stacked else model
    requests = [request(prompt, max_new_tokens=150) for prompt in prompts]
    rows = ours(model, requests)
    assert tokens(rows) == expected
    np.testing.assert_allclose([row.logprob for row in rows], logprobs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("new", [1, 2, 64, 65, 128, 129])
def test_limits_around_the_slots_give_exactly_that_many_tokens(new: int) -> None:
    _, model = long_pair()
    prompts = random_prompts(80, (3, 9))
    requests = [request(prompts[0], max_new_tokens=new), request(prompts[1], max_new_tokens=70)]
    rows = ours(model, requests)
    assert [len(row.tokens) for row in rows] == [new, 70]
    whole = ours(model, [request(prompt, max_new_tokens=150) for prompt in prompts])
    assert [long.tokens[: len(row.tokens)] for long, row in zip(whole, rows, strict=True)] == (
        tokens(rows)
    )


def test_generation_stops_at_the_end_of_the_context() -> None:
    hf, model = family("pythia-70m")
    (prompt,) = random_prompts(model.config.vocab_size, [60])
    (row,) = ours(model, [request(prompt, max_new_tokens=50)])
    assert row.tokens == theirs(hf, [prompt], 4)[0][0]
    assert row.finish_reason == "length"
    with pytest.raises(InputError, match="the prompt has 64 tokens, but the model has 64 posit"):
        ours(model, [request((*prompt, *prompt[:4]), max_new_tokens=1)])


def test_a_prompt_without_tokens_or_with_a_foreign_id_is_refused() -> None:
    _, model = family("pythia-70m")
    size = model.config.vocab_size
    with pytest.raises(InputError, match="prompt 1 has no tokens; begin it with the model's BOS"):
        ours(model, [request([3]), request([])])
    for foreign in (size, -1):
        with pytest.raises(InputError, match=f"token id {foreign} is not in the .* of {size}"):
            ours(model, [request([3, foreign])])


def test_masked_ids_are_never_chosen_and_the_logprob_stays_the_models_own() -> None:
    hf, model = family("pythia-70m")
    prompts = random_prompts(model.config.vocab_size, LENGTHS)
    assert max(map(max, theirs(hf, prompts, 8)[0])) >= 60
    requests = [request(prompt, max_new_tokens=8) for prompt in prompts]
    known = np.arange(model.config.vocab_size) < 60
    for prompt, row in zip(prompts, ours(model, requests, allowed=known), strict=True):
        text = np.array([prompt + row.tokens])
        logits = hf_logits(hf, text, np.ones(text.shape, bool))[0, len(prompt) - 1 : -1]
        assert row.tokens == tuple(logits[:, :60].argmax(-1).tolist())
        expected = log_softmax(logits, axis=-1)[np.arange(8), row.tokens].sum()
        np.testing.assert_allclose(row.logprob, expected, atol=TOLERANCE, rtol=0)


def test_padding_that_is_attended_to_would_be_noticed() -> None:
    """Control: the comparison fails for a batch whose padding is taken for text."""
    hf, model = family("pythia-70m")
    prompts = random_prompts(model.config.vocab_size, LENGTHS)
    first, second = zip(*theirs(hf, prompts, 2)[0], strict=True)
    ids, valid = map(np.asarray, pad_prompts(prompts, model.config.vocab_size))
    ids = np.concatenate([ids, np.array(first)[:, None]], axis=1)
    valid = np.concatenate([valid, np.ones((len(ids), 1), bool)], axis=1)
    assert our_logits(model, ids, valid)[:, -1].argmax(-1).tolist() == list(second)
    blind = our_logits(model, ids, np.ones_like(valid))
    assert blind[:, -1].argmax(-1).tolist() != list(second)
