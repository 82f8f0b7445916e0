"""Drawn tokens follow the distribution, and the random numbers follow the request alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from neox_eqx.generation.decoding import sampling
from neox_eqx.generation.decoding.sampling import Sampler, draw, uniforms
from neox_eqx.generation.history import History
from neox_eqx.generation.options.generation_options import GenerationOptions
from tests.generation.completions import ours, random_prompts, request
from tests.hf_models import family, hf_logits

LAST_UNIFORM = np.nextafter(np.float32(1), np.float32(0))


def drawn(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A token for each number, all from one row of logits."""
    rows = np.broadcast_to(logits.astype(np.float32), (len(uniform), len(logits)))
    return np.asarray(jax.jit(draw)(jnp.asarray(rows), jnp.asarray(uniform, jnp.float32)))


def after(position: int, rows: int = 1) -> History:
    """The history of rows whose next token has this position; no processor here reads more."""
    return History(
        jnp.zeros((rows, 0), jnp.int32),
        jnp.zeros((rows, 1), jnp.int32),
        jnp.full(rows, position, jnp.int32),
    )


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def assert_frequencies(tokens: np.ndarray, expected: np.ndarray) -> None:
    """Pearson's chi-square at a level of 1 in 10,000; rare tokens are counted together."""
    counts = np.bincount(tokens, minlength=len(expected))
    assert not counts[expected == 0].any()
    wanted = len(tokens) * expected
    rare = wanted < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    counts, wanted = counts[wanted > 0], wanted[wanted > 0]
    statistic = ((counts - wanted) ** 2 / wanted).sum()
    assert statistic < chi2.isf(1e-4, len(wanted) - 1)


def numbers(count: int, seed: int = 0) -> np.ndarray:
    place = jnp.arange(count, dtype=jnp.int32)
    return np.asarray(uniforms(jnp.full(count, seed, jnp.uint32), place * 0, place))


@pytest.mark.parametrize("size", [3, 97, 256, 257, 1000])
def test_frequencies_are_the_softmax(size: int) -> None:
    logits = np.random.default_rng(size).normal(0, 1.5, size)
    logits[::5] = -np.inf
    tokens = drawn(logits, np.random.default_rng(0).random(20_000, np.float32))
    assert_frequencies(tokens, probabilities(logits))


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    logits = np.random.default_rng(3).normal(0, 2, 600)
    uniform = np.random.default_rng(4).random(5000, np.float32)
    cumulative = np.cumsum(probabilities(logits))
    expected = np.searchsorted(cumulative, uniform, side="right")
    gap = np.abs(cumulative[:, None] - uniform).min(0)
    certain = gap > 1e-6  # float32 sums of 600 probabilities
    assert certain.mean() > 0.98
    np.testing.assert_array_equal(drawn(logits, uniform)[certain], expected[certain])


@pytest.mark.parametrize("size", [3, 255, 256, 257, 700, 90_000])
def test_a_token_without_weight_is_never_drawn(size: int) -> None:
    """Not even where the number falls on a partial sum, or is the first or last there is."""
    random = np.random.default_rng(size)
    logits = random.normal(0, 3, size).astype(np.float32)
    logits[random.random(size) < 0.9] = -np.inf
    logits[[0, -1]] = -np.inf
    logits[size // 2] = 1
    sums = np.cumsum(probabilities(logits)).astype(np.float32)[np.isfinite(logits)]
    near = [np.nextafter(sums, np.float32(0)), sums, np.nextafter(sums, np.float32(2))]
    sums = np.concatenate(near)[:: max(1, size // 300)]
    uniform = np.clip(np.concatenate([[0], sums, [LAST_UNIFORM]]), 0, LAST_UNIFORM)
    tokens = drawn(logits, uniform)
    assert (tokens < size).all() and np.isfinite(logits[tokens]).all()


def test_partial_sums_that_rise_at_a_weight_of_zero_choose_no_such_index() -> None:
    """A long cumulative sum is made of parts whose rounding differs from one place to the next."""
    random = np.random.default_rng(0)
    for _ in range(20):
        weights = (random.random(300) ** 4 * (random.random(300) < 0.3)).astype(np.float32)
        sums = np.asarray(jax.jit(jnp.cumsum)(weights))
        targets = np.concatenate([np.nextafter(sums, np.float32(0)), sums]) / sums[-1]
        targets = np.clip(targets, 0, LAST_UNIFORM).astype(np.float32)
        index, rest = _invert(np.repeat(weights[None], len(targets), 0), targets)
        assert (weights[index] > 0).all()
        assert (0 <= rest).all() and (rest <= 1).all()


_invert = jax.jit(sampling._invert)


@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST_UNIFORM])
def test_the_only_token_with_weight_is_drawn_whatever_the_number(uniform: float) -> None:
    for place in (0, 255, 256, 299):
        logits = np.where(np.arange(300) == place, -50.0, -np.inf)
        assert drawn(logits, np.array([uniform])).tolist() == [place]


def test_uniforms_are_uniform_and_below_one() -> None:
    values = numbers(20_000)
    assert values.dtype == np.float32 and 0 <= values.min() and values.max() < 1
    assert kstest(values, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


def test_uniforms_depend_on_seed_sample_and_position_alone() -> None:
    grid = np.array([(s, n, t) for s in (0, 1, 2**32 - 1) for n in range(3) for t in range(5)])

    def of(rows: np.ndarray) -> np.ndarray:
        seed, sample, position = rows.T
        small = (jnp.asarray(sample, jnp.int32), jnp.asarray(position, jnp.int32))
        return np.asarray(uniforms(jnp.asarray(seed, jnp.uint32), *small))

    values = of(grid)
    assert len(set(values.tolist())) == len(grid)
    order = np.random.default_rng(0).permutation(len(grid))
    np.testing.assert_array_equal(of(grid[order]), values[order])
    np.testing.assert_array_equal(of(grid[7:8]), values[7:8])


@pytest.mark.parametrize(
    "own",
    [
        dict(temperature=1.0, top_k=0),
        dict(temperature=1.7, top_k=20, top_p=0.9),
        dict(temperature=0.8, top_k=0, top_p=0.95, min_p=0.02),
    ],
)
def test_the_next_token_has_the_frequencies_of_transformers(own: dict[str, float]) -> None:
    hf, model = family("pythia-70m")
    (prompt,) = random_prompts(model.config.vocab_size, [7])
    logits = hf_logits(hf, np.array([prompt]), np.ones((1, 7), bool))[:, -1] / 4
    hf_warpers = LogitsProcessorList([TemperatureLogitsWarper(own["temperature"])])
    if own["top_k"]:
        hf_warpers.append(TopKLogitsWarper(own["top_k"]))
    if own.get("top_p"):
        hf_warpers.append(TopPLogitsWarper(own["top_p"]))
    if own.get("min_p"):
        hf_warpers.append(MinPLogitsWarper(own["min_p"]))
    expected = hf_warpers(None, torch.tensor(logits)).double().softmax(-1)[0].numpy()

    sampler = Sampler.of([GenerationOptions(num_samples=5000, **own).resolve({})], [1])
    choose = jax.jit(Sampler.tokens)
    rows = jnp.asarray(np.repeat(logits, 5000, axis=0))
    tokens = np.asarray(choose(sampler, rows, after(7, 5000)))
    assert_frequencies(tokens, expected)
    with pytest.raises(AssertionError):  # control: other options have other frequencies
        assert_frequencies(tokens, probabilities(logits[0] * 2))


def test_samples_of_the_whole_model_have_the_frequencies_of_transformers() -> None:
    hf, model = family("redpajama-3b")
    (prompt,) = random_prompts(model.config.vocab_size, [7])
    (logits,) = hf_logits(hf, np.array([prompt]), np.ones((1, 7), bool))[:, -1]
    own = dict(temperature=3.0, top_k=30, max_new_tokens=1, num_samples=2000)
    rows = ours(model, [request(prompt, **own)])
    kept = torch.tensor(logits[None] / 3)
    expected = TopKLogitsWarper(30)(None, kept).double().softmax(-1)[0].numpy()
    assert_frequencies(np.array([row.tokens[0] for row in rows]), expected)


def test_a_greedy_row_among_sampling_ones_takes_the_likeliest() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 0.1, (3, 97)), jnp.float32)
    rows = [GenerationOptions(temperature=t, top_k=0) for t in (0.0, 5.0, 0.0)]
    sampler = Sampler.of([options.resolve({}) for options in rows], [1] * len(rows))
    chosen = [np.asarray(sampler.tokens(logits, after(position, 3))) for position in range(5)]
    likeliest = np.asarray(logits.argmax(-1))
    assert all((row[[0, 2]] == likeliest[[0, 2]]).all() for row in chosen)
    assert len({int(row[1]) for row in chosen}) > 1


def test_what_no_row_uses_is_left_out() -> None:
    def kinds(*rows: GenerationOptions) -> list[str]:
        sampler = Sampler.of([options.resolve({}) for options in rows], [1] * len(rows))
        return [type(warper).__name__ for warper in sampler.warpers]

    assert kinds(GenerationOptions(temperature=1.0)) == ["TopK"]
    assert kinds(GenerationOptions(temperature=1.0, top_k=0)) == []
    assert kinds(GenerationOptions(top_p=0.5)) == []
    assert kinds(
        GenerationOptions(temperature=1.0, top_k=0, top_p=0.5),
        GenerationOptions(temperature=0.5, top_k=0, min_p=0.1),
    ) == ["Temperature", "TopP", "MinP"]


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-6, 1e38, float("inf")])
def test_extreme_temperatures_are_their_limits(temperature: float) -> None:
    logits = jnp.asarray([[1.0, 5.0, -jnp.inf, 3.0]])
    options = GenerationOptions(temperature=temperature, top_k=0).resolve({})
    sampler = Sampler.of([options], [1])
    chosen = {int(sampler.tokens(logits, after(place))[0]) for place in range(40)}
    assert chosen == ({1} if temperature < 1 else {0, 1, 3})


@pytest.mark.parametrize("top_k", [2**31 - 1, 2**40, 10**30])
def test_a_top_k_of_any_size_keeps_all(top_k: int) -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1, (1, 97)), jnp.float32)
    options = [GenerationOptions(temperature=1.0, top_k=k).resolve({}) for k in (top_k, 0)]
    at = [after(place) for place in range(5)]
    tokens = [
        [int(Sampler.of([one], [1]).tokens(logits, place)[0]) for place in at] for one in options
    ]
    assert tokens[0] == tokens[1]
