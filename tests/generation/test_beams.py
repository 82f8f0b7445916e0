"""Beam search finds what transformers' finds; beam sampling draws from the same candidates."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    GPTNeoXForCausalLM,
    LogitsProcessor,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding import state as state_module
from neox_eqx.generation.decoding.beams import BeamSearch
from neox_eqx.generation.decoding.loop import decode, read_prompts
from neox_eqx.generation.decoding.run import Row, pad_prompts, run
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.processors.chain import warpers_of
from neox_eqx.generation.vocabulary import NO_VOCABULARY
from tests.generation.completions import ENDLESS, Prompts, ours, random_prompts, request
from tests.generation.test_requests import drawn_options, seeds, their_settings
from tests.hf_models import family

VOCAB = 128
NEW = 14
FILL = 10**5  # no token of a model, so it tells what stands after the end of a text
PROMPTS = random_prompts(VOCAB, (7, 2, 11), seed=3)
Found = list[list[tuple[tuple[int, ...], float]]]
"""Of each prompt its texts with their scores."""


def theirs(
    model: GPTNeoXForCausalLM, prompts: Prompts, eos: Sequence[int], num_beams: int, **settings: Any
) -> Found:
    """What transformers finds, each prompt by itself, without what it fills up with."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW,
        num_beams=num_beams,
        pad_token_id=FILL,
        eos_token_id=list(eos) or [ENDLESS],
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    found: Found = []
    for prompt in prompts:
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=config,
        )
        rows = output.sequences[:, len(prompt) :].tolist()
        texts = [tuple(id for id in row if id != FILL) for row in rows]
        found.append(list(zip(texts, output.sequences_scores.tolist(), strict=True)))
    return found


def ours_by_prompt(rows: Sequence[Row], each: int) -> Found:
    flat = [(row.tokens, row.score) for row in rows]
    return [flat[start : start + each] for start in range(0, len(flat), each)]


def assert_equal(actual: Found, expected: Found) -> None:
    for mine, other in zip(actual, expected, strict=True):
        assert [text for text, _ in mine] == [text for text, _ in other]
        # With biases terms of both signs may sum up to a score near 0, which has their last bits.
        np.testing.assert_allclose(
            [score for _, score in mine], [score for _, score in other], rtol=2e-6, atol=2e-6
        )


def ends(hf: GPTNeoXForCausalLM, number: int) -> tuple[int, ...]:
    """Ids that likely texts meet soon."""
    free = theirs(hf, PROMPTS, (), 4, num_return_sequences=2)
    met = [id for texts in free for text, _ in texts for id in text[3:]]
    ids, counts = np.unique(met, return_counts=True)
    return tuple(ids[np.argsort(-counts, kind="stable")][:number].tolist())


@pytest.mark.parametrize("num_eos", [0, 1, 3])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_texts_and_scores_are_those_of_transformers(
    early_stopping: bool | str, num_eos: int
) -> None:
    hf, model = family("pythia-70m")
    eos = ends(hf, num_eos)
    lengths = set()
    for length_penalty in (-1.0, 0.0, 1.0, 2.5):
        own = dict(num_beams=4, num_return_sequences=3, length_penalty=length_penalty)
        own["early_stopping"] = early_stopping
        rows = ours(model, [request(p, max_new_tokens=NEW, **own) for p in PROMPTS], eos)
        assert_equal(ours_by_prompt(rows, 3), theirs(hf, PROMPTS, eos, **own))
        lengths |= {len(row.tokens) for row in rows}
    assert (len(lengths) > 2) == (num_eos > 0)


@pytest.mark.parametrize("num_beams", [2, 3, 7])
def test_any_number_of_beams_and_texts(num_beams: int) -> None:
    hf, model = family("rinna-3.6b")
    prompts = random_prompts(model.config.vocab_size, (5, 1), seed=num_beams)
    eos = theirs(hf, prompts, (), 2)[0][0][0][3:4]
    own = dict(num_beams=num_beams, num_return_sequences=num_beams)
    rows = ours(model, [request(p, max_new_tokens=NEW, **own) for p in prompts], eos)
    assert_equal(ours_by_prompt(rows, num_beams), theirs(hf, prompts, eos, **own))


@pytest.mark.parametrize("seed", seeds(2, 15))
def test_searches_of_one_batch_have_options_of_their_own(seed: int) -> None:
    """Processors too: they see the text of each beam, and log-probabilities."""
    hf, model = family("pythia-70m")
    random = np.random.default_rng(seed)
    prompts = [tuple(random.integers(0, VOCAB, n).tolist()) for n in random.integers(1, 17, 8)]
    eos = ends(hf, 2)
    each = [
        {name: value for name, value in drawn_options(random).items() if name != "min_length"}
        | dict(
            length_penalty=float(random.choice([-1.0, 0.0, 0.5, 2.0])),
            early_stopping=[True, False, "never"][random.integers(3)],
            num_beams=3,
        )
        for _ in prompts
    ]
    files = [{"renormalize_logits": bool(random.integers(2))} for _ in prompts]
    requests = [
        request(prompt, file, max_new_tokens=NEW, **own)
        for prompt, file, own in zip(prompts, files, each, strict=True)
    ]
    rows = ours(model, requests, eos)
    for prompt, file, own, row in zip(prompts, files, each, rows, strict=True):
        expected = theirs(hf, [prompt], eos, **file, **their_settings(own))
        assert_equal([[(row.tokens, row.score)]], expected)


def test_the_reported_log_probabilities_are_the_models_own() -> None:
    """Of the text that was found, however its beams changed places."""
    hf, model = family("pythia-70m")
    eos = ends(hf, 1)
    own = dict(num_beams=4, num_return_sequences=4, repetition_penalty=1.5)
    rows = ours(model, [request(PROMPTS[0], max_new_tokens=NEW, **own)], eos)
    for row in rows:
        text = torch.tensor([PROMPTS[0] + row.tokens])
        with torch.no_grad():
            logprobs = hf(text).logits[0, len(PROMPTS[0]) - 1 : -1].double().log_softmax(-1)
        expected = [float(logprobs[place, id]) for place, id in enumerate(row.tokens)]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)
        assert row.finish_reason == ("eos" if row.tokens[-1] in eos else "length")


def test_no_beam_copies_keys_or_values() -> None:
    """A prompt's beams share one row of the cache, and see the slots of their own past."""
    _, model = family("pythia-70m")
    options = [request(p, max_new_tokens=NEW, num_beams=4).options for p in PROMPTS]
    ids, valid = pad_prompts(PROMPTS, VOCAB)
    search = BeamSearch.of(options, [NEW] * 3)
    prompt, state = read_prompts(model, ids, valid, search)
    assert [kv.key.shape[0] for kv in (*prompt.kv, *state.generated.kv)] == [3] * 4
    program = decode.lower(model, (prompt,), state, search, jnp.int32(NEW)).compile().as_text()
    shape = ",".join(map(str, state.generated.kv[0].key.shape))
    made = [line for line in program.splitlines() if f"= f32[{shape}]" in line]
    assert made and not [line for line in made if re.search(r" (copy|gather|select)\(", line)]


def test_beams_that_see_what_others_said_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without moving what the rows see, the texts differ from transformers'."""
    hf, model = family("pythia-70m")
    own = dict(num_beams=4)
    expected = theirs(hf, PROMPTS, (), **own)
    monkeypatch.setattr(state_module, "take_rows", lambda x, parents: x)
    for compiled in (read_prompts, decode):
        compiled.clear_cache()
    try:
        rows = ours(model, [request(p, max_new_tokens=NEW, **own) for p in PROMPTS])
        assert ours_by_prompt(rows, 1) != expected
        assert [row.tokens for row in rows] != [texts[0][0] for texts in expected]
    finally:
        monkeypatch.undo()
        for compiled in (read_prompts, decode):
            compiled.clear_cache()


@pytest.mark.typed
def test_beam_sampling_draws_without_replacement() -> None:
    """One token, two beams of one prompt: the texts are two of four draws, the likelier first."""
    hf, model = family("pythia-70m")
    own = dict(num_beams=2, num_return_sequences=2, temperature=0.7, top_k=5)
    requests = [request(PROMPTS[0], max_new_tokens=1, seed=seed, **own) for seed in range(1500)]
    rows = ours(model, requests)
    pairs = [(rows[at].tokens[0], rows[at + 1].tokens[0]) for at in range(0, len(rows), 2)]

    with torch.no_grad():
        logprobs = hf(torch.tensor([PROMPTS[0]])).logits[0, -1].double().log_softmax(-1)
    likeliest = logprobs.topk(5)
    # Log-probabilities are what is warped, and the scores of the texts.
    weights = (likeliest.values / 0.7).softmax(-1).tolist()
    expected: Counter[tuple[int, int]] = Counter()
    for first, second in itertools.permutations(range(5), 2):
        share = weights[first] * weights[second] / (1 - weights[first])
        better, worse = sorted((first, second))
        expected[int(likeliest.indices[better]), int(likeliest.indices[worse])] += share
    seen = Counter(pairs)
    assert seen.keys() <= expected.keys() and len(seen) > 5
    for pair, share in expected.items():
        deviation = (share * (1 - share) / len(pairs)) ** 0.5
        assert abs(seen[pair] / len(pairs) - share) < 4.5 * deviation


def test_a_sampled_search_depends_on_its_seed_alone() -> None:
    _, model = family("pythia-70m")
    own = dict(num_beams=3, temperature=1.3, top_p=0.9, max_new_tokens=NEW)
    together = [request(p, seed=seed, **own) for p in PROMPTS[:2] for seed in range(2)]
    greedy = request(PROMPTS[1], num_beams=3, max_new_tokens=NEW)
    rows = ours(model, [*together, greedy])
    assert len({row.tokens for row in rows[:2]}) == 2
    alone = [ours(model, [one])[0] for one in together]
    assert [row.tokens for row in alone] == [row.tokens for row in rows[:-1]]
    assert ours(model, [greedy])[0].tokens == rows[-1].tokens


@pytest.mark.parametrize(
    ("kind", "value", "name"),
    [
        (TopKLogitsWarper, 1, "top_k"),
        (TopPLogitsWarper, 0.2, "top_p"),
        (MinPLogitsWarper, 0.99, "min_p"),
        (TypicalLogitsWarper, 0.1, "typical_p"),
        (EpsilonLogitsWarper, 0.5, "epsilon_cutoff"),
        (EtaLogitsWarper, 0.9, "eta_cutoff"),
    ],
)
def test_filters_of_a_search_leave_as_many_tokens_as_transformers(
    kind: Callable[..., LogitsProcessor], value: float, name: str
) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3, 40)).astype(np.float32)
    for at_least in (2, 4):
        options = GenerationOptions(**{"temperature": 1.0, "top_k": 0, name: value}).resolve({})
        (ours,) = warpers_of([options] * 3, at_least=at_least)
        kept = np.asarray(ours(jnp.asarray(logits))) > -np.inf
        warper = kind(value, min_tokens_to_keep=at_least)
        expected = warper(None, torch.tensor(logits)).numpy() > -np.inf
        assert (kept == expected).all() and (kept.sum(-1) >= at_least).all()


def test_a_search_on_a_mesh_finds_the_same(tmp_path: Path) -> None:
    hf, model = family("pythia-70m")
    hf.save_pretrained(tmp_path)
    own = dict(num_beams=4, num_return_sequences=2, max_new_tokens=NEW)
    requests = [request(p, **own) for p in PROMPTS]
    eos = ends(hf, 1)
    alone = ours(model, requests, eos)
    spread = ours(load(tmp_path, mesh="data=2,model=2"), requests, eos)
    assert [row.tokens for row in spread] == [row.tokens for row in alone]
    scores = [[row.score for row in rows] for rows in (spread, alone)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_a_search_gives_its_rows_once_and_at_its_end_however_often_it_is_asked() -> None:
    _, model = family("pythia-70m")
    asked = [request(prompt, max_new_tokens=NEW, num_beams=3) for prompt in PROMPTS]
    assert list(run(model, asked, NO_VOCABULARY, stride=2)) == [ours(model, asked)]


def test_a_search_whose_options_leave_too_few_texts_says_so() -> None:
    """Three tokens, none of them twice: there are six texts, and then nothing."""
    _, model = family("pythia-70m")
    own = dict(num_beams=4, num_return_sequences=4, no_repeat_ngram_size=1)
    few = request((1,), max_new_tokens=NEW, suppress_tokens=tuple(range(4, VOCAB)), **own)
    rows = ours(model, [few, request((2,), max_new_tokens=NEW, **own)])
    assert {row.finish_reason for row in rows[4:]} == {"length"}
    missing = [row for row in rows[:4] if row.finish_reason == "error"]
    assert missing and all(row.tokens == () for row in missing)
    assert "found fewer texts than num_return_sequences" in missing[0].error


def test_contradictory_options_are_refused() -> None:
    for own, message in (
        (dict(num_beams=2, num_samples=2), "num_samples is 2 and num_beams 2"),
        (dict(num_beams=2, num_return_sequences=3), "num_return_sequences is 3, but num_beams 2"),
        (dict(num_return_sequences=2), "num_return_sequences is 2, but num_beams 1"),
        (dict(num_beams=0), "num_beams must be a whole number of at least 1, not 0"),
    ):
        with pytest.raises(InputError, match=message):
            GenerationOptions(**own).resolve({})
    with pytest.raises(InputError, match="early_stopping must be true, false or never, not 'no'"):
        GenerationOptions().resolve({"num_beams": 2, "early_stopping": "no"})
