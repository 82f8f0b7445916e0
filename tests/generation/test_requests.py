"""Requests with options of their own in one batch: each is as it is alone and in transformers."""

from typing import Any

import numpy as np
import pytest
from jax.sharding import Mesh

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.generation_options import GenerationOptions
from tests.generation.completions import ours, random_prompts, request, theirs, tokens
from tests.generation.test_compiled import compilations
from tests.generation.test_rules import expected
from tests.hf_models import config_json, family, hf_logits, hf_model

VOCAB = 128
NEW = 20
PROMPTS = random_prompts(VOCAB, (9, 3, 14, 1, 6, 11, 16, 2))
# All that changes a text, with values for which it does: no row may be without any of them.
OWN: list[dict[str, Any]] = [
    dict(repetition_penalty=1.6, no_repeat_ngram_size=2),
    dict(bad_words=((0,), (5, 6), *((id,) for id in range(10, 40))), min_new_tokens=8),
    dict(suppress_tokens=tuple(range(64)), repetition_penalty=1.2),
    dict(logit_bias={id: 4.0 for id in range(70, 75)}, no_repeat_ngram_size=1),
    dict(),
    dict(min_length=20, repetition_penalty=0.7, bad_words=((1,),)),
    dict(temperature=1.2, typical_p=0.8, seed=3, top_k=0, repetition_penalty=1.3),
    dict(temperature=0.9, eta_cutoff=0.02, epsilon_cutoff=0.01, top_p=0.9, presence_penalty=1.0),
]


def mixed(**shared: Any) -> list[Request]:
    return [
        request(prompt, max_new_tokens=NEW, **{**own, **shared})
        for prompt, own in zip(PROMPTS, OWN, strict=True)
    ]


def their_settings(own: dict[str, Any]) -> dict[str, Any]:
    settings = dict(own)
    if "bad_words" in settings:
        settings["bad_words_ids"] = [list(word) for word in settings.pop("bad_words")]
    if "suppress_tokens" in settings:
        settings["suppress_tokens"] = list(settings["suppress_tokens"])
    if "logit_bias" in settings:
        bias = settings.pop("logit_bias")
        settings["sequence_bias"] = [[[id], value] for id, value in bias.items()]
    return settings


def drawn_options(random: np.random.Generator) -> dict[str, Any]:
    """A few processors with values that change a text of this vocabulary."""
    ids = random.integers(0, VOCAB, 60).tolist()
    choices: dict[str, Any] = {
        "repetition_penalty": float(random.uniform(0.6, 2.5)),
        "no_repeat_ngram_size": int(random.integers(1, 4)),
        "bad_words": (*((id,) for id in ids[:30]), *zip(ids[:20], ids[20:40], strict=True)),
        "min_new_tokens": int(random.integers(1, 15)),
        "min_length": int(random.integers(1, 22)),  # of a prompt of one token and 20 new
        "suppress_tokens": tuple(ids[30:]),
        "logit_bias": {id: float(random.normal(0, 4)) for id in ids[:20]},
        "exponential_decay_length_penalty": (
            int(random.integers(0, 6)),
            float(random.uniform(0.9, 1.4)),
        ),
    }
    names = random.choice([*choices], random.integers(1, 5), replace=False)
    return {name: choices[name] for name in names}


def seeds(few: int, many: int) -> list[Any]:
    """A few in every run of the tests, and many where there is time."""
    slow = pytest.mark.slow
    return [*range(few), *[pytest.param(seed, marks=slow) for seed in range(few, many)]]


@pytest.mark.parametrize("seed", seeds(3, 24))
def test_greedy_tokens_are_those_of_transformers_for_drawn_options(seed: int) -> None:
    hf, model = family("pythia-70m")
    random = np.random.default_rng(seed)
    prompts = [tuple(random.integers(0, VOCAB, n).tolist()) for n in random.integers(1, 17, 12)]
    own = [drawn_options(random) for _ in prompts]
    free = theirs(hf, prompts[:1], NEW)[0][0]
    eos = (free[2], free[5], 77)
    requests = [
        request(prompt, max_new_tokens=NEW, **one) for prompt, one in zip(prompts, own, strict=True)
    ]
    rows = ours(model, requests, eos)
    for prompt, one, row in zip(prompts, own, rows, strict=True):
        expected, logprobs = theirs(hf, [prompt], NEW, eos, **their_settings(one))
        assert row.tokens == expected[0], one
        # The log-probabilities stay the model's own.
        np.testing.assert_allclose(row.logprob, logprobs[0], atol=1e-4, rtol=0)
        assert row.finish_reason == ("eos" if row.tokens[-1] in eos else "length")


def test_every_option_changes_its_row() -> None:
    """So that the rows of the tests below have something to lose."""
    _, model = family("pythia-70m")
    plain = [request(prompt, max_new_tokens=NEW) for prompt in PROMPTS]
    free = ours(model, plain)
    eos = [free[1].tokens[3], free[5].tokens[1]]
    plain, own = ours(model, plain, eos), ours(model, mixed(), eos)
    changed = [one.tokens != other.tokens for one, other in zip(plain, own, strict=True)]
    assert changed == [bool(options) for options in OWN]


def test_a_row_among_rows_of_other_options_is_as_it_is_alone() -> None:
    _, model = family("pythia-70m")
    requests = mixed()
    eos = [ours(model, requests[4:5])[0].tokens[6]]
    together = ours(model, requests, eos)
    for number in (2, 6):
        assert ours(model, [requests[number]], eos)[0].tokens == together[number].tokens
    assert tokens(ours(model, requests[::-1], eos)) == tokens(together)[::-1]


def test_samples_of_one_prompt_have_its_history_each() -> None:
    _, model = family("pythia-70m")
    own = dict(temperature=1.5, repetition_penalty=1.5, no_repeat_ngram_size=2, seed=2)
    rows = [request(PROMPTS[0], max_new_tokens=NEW, num_samples=3, **own)]
    alone = [request(PROMPTS[0], max_new_tokens=NEW, num_samples=1, **own)]
    completions = tokens(ours(model, rows))
    assert len(set(completions)) == 3
    assert completions[:1] == tokens(ours(model, alone))
    for row in completions:
        pairs = list(zip(PROMPTS[0] + row, (PROMPTS[0] + row)[1:], strict=False))
        new = pairs[len(PROMPTS[0]) - 1 :]
        assert all(
            pair not in pairs[: len(PROMPTS[0]) - 1 + place] for place, pair in enumerate(new)
        )


def test_a_row_that_samples_draws_the_same_alone_as_twice() -> None:
    """XLA joins other steps of a batch of one row, and rounds what they share otherwise."""
    _, model = family("pythia-70m")
    own = dict(temperature=1.2, top_k=0, typical_p=0.8, frequency_penalty=0.3, seed=3)
    one = request(PROMPTS[6], max_new_tokens=6, **own)
    assert 2 * tokens(ours(model, [one])) == tokens(ours(model, [one, one]))


def test_sampled_tokens_are_of_the_support_that_transformers_leaves() -> None:
    hf, model = family("pythia-70m")
    settings = [
        dict(temperature=1.3, top_k=0, typical_p=0.4),
        dict(temperature=0.8, top_k=0, epsilon_cutoff=0.03, no_repeat_ngram_size=1),
        dict(temperature=1.5, top_k=9, eta_cutoff=0.1, repetition_penalty=1.4),
    ]
    prompt = PROMPTS[0]
    (logits,) = hf_logits(hf, np.array([prompt]), np.ones((1, len(prompt)), bool))[:, -1]
    for own in settings:
        rows = ours(model, [request(prompt, max_new_tokens=1, num_samples=400, **own)])
        support = set(np.flatnonzero(expected(own, (prompt, ()), logits, ()) > -np.inf).tolist())
        drawn = {row.tokens[0] for row in rows}
        assert drawn <= support
        assert len(support) < 100 and len(drawn) > min(len(support), 20) / 2


def test_slots_that_double_keep_the_history() -> None:
    _, model = family("stablelm-alpha")
    own = dict(max_new_tokens=90, no_repeat_ngram_size=1)
    (row,) = ours(model, [request([5, 6, 7], **own)])
    assert len({5, 6, 7} | set(row.tokens)) == 93


def test_new_values_of_options_compile_nothing() -> None:
    _, model = family("pythia-70m")
    ours(model, mixed(), [3])
    with compilations() as seen:
        ours(model, mixed(no_repeat_ngram_size=5, repetition_penalty=1.9), [3])
        ours(model, mixed(bad_words=((7, 8, 9, 1), *((id,) for id in range(30)))), [3])
        ours(model, mixed(logit_bias={5: 1.0}, suppress_tokens=tuple(range(50, 100))), [3])
    assert not seen
    with compilations() as seen:  # control: a processor that was in no row does
        ours(model, mixed(frequency_penalty=1.0), [3])
    assert seen


@pytest.mark.parametrize("mesh", ["data=8,model=1", "data=2,model=4"])
def test_a_mesh_gives_the_tokens_of_one_device(mesh: str | Mesh, tmp_path: Any) -> None:
    hf_model(config_json(64, 4, vocab_size=VOCAB)).save_pretrained(tmp_path)
    spelled = tuple(bytes([id]) for id in range(VOCAB))
    shared = dict(stop=((3, 4), "ab"), frequency_penalty=0.3)
    alone = ours(load(tmp_path), mixed(**shared), [9], token_bytes=spelled)
    sharded = ours(load(tmp_path, mesh=mesh), mixed(**shared), [9], token_bytes=spelled)
    assert tokens(sharded) == tokens(alone)
    assert [row.finish_reason for row in sharded] == [row.finish_reason for row in alone]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (dict(bad_words=((3, 128),)), "bad_words: token id 128 is not in the model's voc.* of 128"),
        (dict(suppress_tokens=(500,)), "suppress_tokens: token id 500 is not in"),
        (dict(logit_bias={"128": 1.0}), "logit_bias: token id 128 is not in"),
        (dict(stop=((1, 999),)), "stop: token id 999 is not in"),
        (dict(bad_words=("word",)), "bad_words: 'word' is a text; without a tokenizer give its"),
        (dict(min_new_tokens=9, max_new_tokens=8), "min_new_tokens is 9, but .* most 8 new tokens"),
        (dict(min_new_tokens=21), "min_new_tokens is 21, but the text has at most 20 new tokens"),
        (
            dict(min_length=30, max_new_tokens=8),
            "min_length is 30, but .* most 11 tokens, 3 of",
        ),
    ],
)
def test_options_that_cannot_hold_are_refused(own: dict[str, Any], message: str) -> None:
    _, model = family("pythia-70m")
    with pytest.raises(InputError, match=message):
        ours(model, [request([1, 2, 3], **own)])


def test_a_min_new_tokens_of_the_request_makes_its_min_length_moot() -> None:
    options = GenerationOptions(min_length=60, min_new_tokens=2).resolve({})
    assert options.new_tokens(5, 64) == 20
