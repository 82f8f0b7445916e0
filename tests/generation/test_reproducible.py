"""A completion depends on its request alone: not on its batch, its place, or how it is read."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.generation.decoding import sampling
from neox_eqx.generation.decoding.loop import decode, read_prompts
from neox_eqx.generation.decoding.run import Request, pad_prompts, run
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.vocabulary import Vocabulary
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import family, hf_logits, stack_layers

pytestmark = pytest.mark.optimised

PROMPTS = random_prompts(128, (9, 3, 14, 1, 6))
WARM = dict(temperature=1.5, top_k=0, max_new_tokens=12)


def mixed() -> list[Request]:
    """Requests that share nothing: every processor is on in some row and off in another."""
    own = [
        dict(WARM, seed=7),
        dict(max_new_tokens=12),
        dict(WARM, seed=8, top_p=0.8),
        dict(WARM, seed=7, top_k=5),
        dict(WARM, seed=2**32 - 1, min_p=0.1, temperature=0.9, max_new_tokens=5),
    ]
    return [request(prompt, **options) for prompt, options in zip(PROMPTS, own, strict=True)]


def test_a_row_is_the_same_alone_and_in_any_batch() -> None:
    _, model = family("pythia-70m")
    requests = mixed()
    together = ours(model, requests)
    assert [len(row.tokens) for row in together] == [12, 12, 12, 12, 5]
    for row, one in list(zip(together, requests, strict=True))[::2]:
        (alone,) = ours(model, [one])
        assert alone.tokens == row.tokens
        np.testing.assert_allclose(alone.logprob, row.logprob, atol=1e-4, rtol=0)
    backwards = ours(model, requests[::-1])[::-1]
    assert tokens(backwards) == tokens(together)


@pytest.mark.parametrize("stride", [1, 5, 1000])
def test_reading_along_shows_the_same_rows_as_they_grow(stride: int) -> None:
    _, model = family("pythia-70m")
    requests = mixed()
    eos = [ours(model, requests)[0].tokens[6]]
    whole = ours(model, requests, eos)
    states = list(run(model, requests, Vocabulary(eos), stride=stride))
    assert states[-1] == whole
    for rows in states:
        for row, finished in zip(rows, whole, strict=True):
            assert finished.tokens[: len(row.tokens)] == row.tokens
            assert (row == finished) == (row.finish_reason is not None)
    assert len(states) == 1 + math.ceil(11 / stride)  # the first token comes with the prefill


@pytest.mark.parametrize("stacked", [False, True])
def test_samples_are_numbered_and_do_not_depend_on_how_many_there_are(stacked: bool) -> None:
    _, model = family("pythia-70m")
    model = stack_layers(model) if stacked else model
    three = [request(prompt, **WARM, seed=5, num_samples=3) for prompt in PROMPTS[:2]]
    one = [request(prompt, **WARM, seed=5) for prompt in PROMPTS[:2]]
    rows, firsts = tokens(ours(model, three)), tokens(ours(model, one))
    assert rows[::3] == firsts
    assert len(set(rows)) == 6


def test_samples_of_a_prompt_share_its_prefill() -> None:
    _, model = family("pythia-70m")
    requests = [request(prompt, **WARM, num_samples=4) for prompt in PROMPTS[:2]]
    ids, valid = pad_prompts(PROMPTS[:2], model.config.vocab_size)
    sampler = Sampler.of([one.options for one in requests], [12, 12])
    prompt, state = read_prompts(model, ids, valid, sampler)
    assert [kv.key.shape[0] for kv in prompt.kv] == [2, 2]
    assert [kv.key.shape[0] for kv in state.generated.kv] == [8, 8]


def test_another_seed_or_prompt_gives_another_completion() -> None:
    _, model = family("pythia-70m")
    own = [dict(WARM, seed=seed) for seed in range(4)]
    rows = tokens(ours(model, [request(PROMPTS[0], **options) for options in own]))
    assert len(set(rows)) == 4
    again = tokens(ours(model, [request(PROMPTS[0], **options) for options in own[::-1]]))
    assert again[::-1] == rows


def replayed(prompt: tuple[int, ...], generated: tuple[int, ...], shift: int) -> list[int]:
    """Sample 1 of seed 5 drawn again from transformers' logits, a token for each position."""
    hf, _ = family("pythia-70m")
    text = np.array([prompt + generated])
    logits = hf_logits(hf, text, np.ones(text.shape, bool))[0, len(prompt) - 1 : -1]
    places = jnp.arange(len(generated), dtype=jnp.int32) + len(prompt) + shift
    seeds = jnp.full(len(places), 5, jnp.uint32)
    numbers = sampling.uniforms(seeds, jnp.ones_like(places), places)
    return sampling.draw(jnp.asarray(logits / 1.5), numbers).tolist()


def test_each_token_is_drawn_with_the_number_of_its_position() -> None:
    _, model = family("pythia-70m")
    for prompt in PROMPTS[:2]:
        rows = ours(model, [request(prompt, **WARM, seed=5, num_samples=2)])
        assert replayed(prompt, rows[1].tokens, 0) == list(rows[1].tokens)
        for shift in (-1, 1):  # control: the number of a neighbour gives another text
            assert replayed(prompt, rows[1].tokens, shift) != list(rows[1].tokens)


def test_numbers_that_depend_on_the_place_in_the_batch_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: with the row folded in, the order of the batch changes a completion."""
    _, model = family("pythia-70m")
    requests = mixed()[2::-1]
    genuine = sampling.uniforms

    def by_row(seed: jax.Array, sample: jax.Array, position: jax.Array) -> jax.Array:
        return genuine(seed, sample, position + jnp.arange(len(seed), dtype=jnp.int32))

    expected = tokens(ours(model, requests))
    monkeypatch.setattr(sampling, "uniforms", by_row)
    read_prompts.clear_cache()
    decode.clear_cache()
    try:
        assert tokens(ours(model, requests))[2] != expected[2]
    finally:
        monkeypatch.undo()
        read_prompts.clear_cache()
        decode.clear_cache()
