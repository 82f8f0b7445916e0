"""Scores of given tokens: those of a log-softmax, which is never there as a whole."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from neox_eqx.generation.decoding.scores import NOT_ASKED, token_scores
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.scoring.pairs import Pair, score_pairs
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.sharding.rules import parameter_shardings
from tests.generation.completions import random_prompts
from tests.hf_models import config_json, pair

# The vocabulary is prime, so that no other axis of any array is as long.
VOCABULARY, POSITIONS = 97, 300
# Measured 4.8e-6 against transformers' and 2.9e-6 between meshes.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> GPTNeoX:
    return pair(config_json(32, 4, vocab_size=VOCABULARY))[1]


def asked(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Hidden states, and targets at two thirds of them: more than a chunk, and no multiple."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, VOCABULARY, POSITIONS)
    targets[random.random(POSITIONS) < 1 / 3] = NOT_ASKED
    hidden = random.standard_normal((POSITIONS, 32), np.float32)
    return jnp.asarray(hidden), jnp.asarray(targets, jnp.int32)


@pytest.mark.typed
def test_ragged_texts_have_the_log_probabilities_of_transformers() -> None:
    hf, model = pair(config_json(32, 4, vocab_size=VOCABULARY))
    texts = random_prompts(VOCABULARY, [2, 30, 17, 65, 40, 9, 1])
    texts[4] = texts[4][:5] + (3,) * 20
    pairs = [Pair(text[: len(text) // 3 + 1], text[len(text) // 3 + 1 :]) for text in texts]
    scores = dict(
        item for batch in score_pairs(model, pairs, batch_size=3, candidates=4) for item in batch
    )
    for index, text in enumerate(texts):
        with torch.no_grad():
            logits = hf(torch.tensor([text])).logits[0, len(pairs[index].context) - 1 : -1]
        expected = logits.double().log_softmax(-1)
        target = torch.tensor(pairs[index].tokens, dtype=torch.long)
        own, best = scores[index], expected.topk(4)
        of_target = expected.gather(1, target[:, None])[:, 0]
        assert own.logprobs == pytest.approx(of_target.tolist(), abs=TOLERANCE)
        assert list(own.are_greedy) == (logits.argmax(-1) == target).tolist()
        for candidates, ids, values in zip(own.candidates, best.indices, best.values, strict=True):
            assert [one.token for one in candidates] == ids.tolist()
            probabilities = [one.probability for one in candidates]
            assert probabilities == pytest.approx(values.exp().tolist(), rel=TOLERANCE)


def test_what_is_not_asked_for_has_no_score_and_the_first_of_equals_is_greedy(
    model: GPTNeoX,
) -> None:
    hidden, targets = asked()
    # Hidden states of zeros make all logits equal.
    hidden, targets = hidden.at[:2].set(0), targets.at[:2].set(jnp.array([0, 1]))
    scores = token_scores(model, hidden, targets)
    skipped = np.asarray(targets) < 0
    assert not np.asarray(scores.logprob)[skipped].any() and skipped.any()
    assert (np.asarray(scores.logprob)[~skipped] < 0).all()
    assert not np.asarray(scores.is_greedy)[skipped].any()
    assert scores.is_greedy[:2].tolist() == [True, False]
    assert scores.logprob[:2].tolist() == pytest.approx([-math.log(VOCABULARY)] * 2)
    nothing = token_scores(model, hidden, jnp.full_like(targets, NOT_ASKED))
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


@pytest.mark.parametrize("mesh", ["data=2,model=4", "data=8,model=1"])
def test_scores_on_a_mesh_are_those_of_one_device(mesh: str) -> None:
    # This vocabulary is split over the devices.
    _, model = pair(config_json(32, 4, vocab_size=96))
    hidden, targets = asked()
    targets = jnp.minimum(targets, 95)
    place = make_mesh(model.config, mesh)
    spread = jax.device_put(model, parameter_shardings(model, place))
    spread = GPTNeoX(**{**vars(spread), "mesh": place})
    one, many = (token_scores(m, hidden, targets, candidates=3) for m in (model, spread))
    assert np.allclose(one.logprob, many.logprob, rtol=0, atol=TOLERANCE)
    assert np.allclose(one.candidate_logprobs, many.candidate_logprobs, rtol=0, atol=TOLERANCE)
    assert (one.is_greedy == many.is_greedy).all() and (one.candidates == many.candidates).all()
    compiled = token_scores.lower(spread, hidden, targets).compile().as_text()
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", compiled)
    assert not [shape for shape in gathered if "96" in shape.split(",")], gathered


def test_no_array_has_the_vocabulary_at_every_position(model: GPTNeoX) -> None:
    def naive(model: GPTNeoX, hidden: jax.Array, targets: jax.Array) -> jax.Array:
        logprobs = jax.nn.log_softmax(model.logits(hidden))
        return jnp.take_along_axis(logprobs, targets[:, None], axis=-1)

    asked_for = asked()
    assert largest(jax.jit(naive).lower(model, *asked_for)) == POSITIONS * VOCABULARY
    for candidates in (0, 3):
        lowered = token_scores.lower(model, *asked_for, candidates=candidates)
        assert largest(lowered) == 128 * VOCABULARY


def largest(lowered: jax.stages.Lowered) -> int:
    """Elements of the largest array with an axis over the vocabulary, all loops included."""
    shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", lowered.compile().as_text())
    axes = ([int(size) for size in shape.split(",")] for shape in shapes)
    return max(math.prod(sizes) for sizes in axes if VOCABULARY in sizes)
