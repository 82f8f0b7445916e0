"""Each filter drops what transformers' warper of the same name and a NumPy reference drop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from neox_eqx.generation.processors.chain import Warper
from neox_eqx.generation.processors.warpers import (
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)

SIZES = (5, 97, 300)
TOP_KS = (1, 2, 7, 50, 10**6)
TOP_PS = (0.0, 1e-6, 0.1, 0.5, 0.75, 0.9, 0.95, 0.999, 1.0)
MIN_PS = (1e-6, 0.05, 0.3, 0.999, 1.0)
TYPICAL_PS = (1e-6, 0.1, 0.5, 0.9, 0.999)
CUTOFFS = (1e-6, 3e-4, 0.01, 0.2, 0.999)


def logits_of(size: int) -> np.ndarray:
    """Rows that are flat, peaked, full of ties, all equal, partly -inf, all -inf but one."""
    random = np.random.default_rng(size)
    rows = [random.normal(0, scale, size) for scale in (0.01, 1, 3, 20)]
    rows += [random.integers(0, 3, size).astype(float), np.zeros(size), np.full(size, -7.5)]
    rows += [np.where(random.random(size) < 0.5, -np.inf, random.normal(0, 2, size))]
    rows += [np.where(np.arange(size) == size // 2, 1.0, -np.inf)]
    rows += [np.linspace(-2, 2, size), np.linspace(2, -2, size)]
    rows[-4][0] = 0.5
    return np.array(rows, np.float32)


def apply(processor: Warper, logits: np.ndarray) -> np.ndarray:
    return np.asarray(_apply(processor, jnp.asarray(logits)))


_apply = jax.jit(lambda processor, logits: processor(logits))


def warped(warper: LogitsProcessor, logits: np.ndarray) -> np.ndarray:
    return warper(None, torch.tensor(logits)).numpy()


def each_row(logits: np.ndarray, value: float, dtype: type = np.float32) -> jax.Array:
    return jnp.asarray(np.full(len(logits), value, dtype))


def softmax64(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def top_p_reference(logits: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """The sorted logits with those that go at -inf, in float64; and where float32 may differ.

    Sorted upwards, a token goes while the sum up to it is at most 1 - p; the last one stays.
    """
    ordered = np.sort(logits, axis=-1)
    cumulative = np.cumsum(softmax64(ordered), -1)
    cumulative[:, -1] = 2
    certain = np.abs(cumulative - (1 - p)) > 1e-6
    return np.where(cumulative <= 1 - p, -np.inf, ordered), certain


@pytest.mark.parametrize("size", SIZES)
def test_temperature_divides(size: int) -> None:
    logits = logits_of(size)
    for temperature in (1e-3, 0.7, 1.0, 30.0):
        actual = apply(Temperature(each_row(logits, temperature)), logits)
        expected = warped(TemperatureLogitsWarper(temperature), logits)
        np.testing.assert_allclose(actual, expected, rtol=2e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", TOP_KS)
def test_top_k_keeps_what_transformers_keeps_ties_included(k: int, size: int) -> None:
    logits = logits_of(size)
    actual = apply(TopK(each_row(logits, k, np.int32), largest=k), logits)
    np.testing.assert_array_equal(actual, warped(TopKLogitsWarper(k), logits))
    threshold = np.sort(logits, axis=-1)[:, [-min(k, size)]]
    np.testing.assert_array_equal(actual, np.where(logits < threshold, -np.inf, logits))


def test_top_k_keeps_more_than_k_where_the_last_of_them_is_tied() -> None:
    logits = np.array([[1, 3, 2, 2, 2, 0]], np.float32)
    kept = apply(TopK(each_row(logits, 2, np.int32), largest=4), logits) > -np.inf
    assert kept.tolist() == [[False, True, True, True, True, False]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("p", TOP_PS)
def test_top_p_keeps_what_transformers_keeps(p: float, size: int) -> None:
    logits = logits_of(size)
    actual = apply(TopP(each_row(logits, p)), logits)
    kept = actual > -np.inf
    np.testing.assert_array_equal(actual[kept], logits[kept])
    # Sorted: which of several equal logits go is the sort's choice, and torch promises none.
    expected = warped(TopPLogitsWarper(p), logits)
    reference, certain = top_p_reference(logits, p)
    for other in (np.sort(expected, axis=-1), reference):
        np.testing.assert_array_equal(np.sort(actual, axis=-1)[certain], other[certain])
    assert kept.any(-1).all()


def test_top_p_keeps_the_later_ones_of_equal_logits_as_a_stable_sort_does() -> None:
    logits = np.array([[1, 0, 1, 1, 1, 0]], np.float32)
    kept = apply(TopP(each_row(logits, 0.4)), logits) > -np.inf
    assert kept.tolist() == [[False, False, False, True, True, False]]


def test_top_p_is_compared_with_almost_no_slack() -> None:
    """The boundary is uncertain only where a sum is within 1e-6 of p."""
    for size in SIZES:
        for p in TOP_PS[1:-1]:
            _, certain = top_p_reference(logits_of(size), p)
            # A row that is flat or -inf has whole stretches of equal sums.
            assert certain.mean() > 0.95


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.0, 1), (0.25, 1), (0.49, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4)],
)
def test_top_p_keeps_the_token_that_crosses_p(p: float, kept: int) -> None:
    logits = np.log(np.array([[0.125, 0.5, 0.125, 0.25]], np.float32))
    actual = apply(TopP(each_row(logits, p)), logits) > -np.inf
    assert actual.sum() == kept
    np.testing.assert_array_equal(actual, warped(TopPLogitsWarper(p), logits) > -np.inf)


def test_top_p_takes_a_negative_zero_for_a_zero() -> None:
    logits = np.array([[-0.0, 0.0, -0.0, 0.0]], np.float32)
    actual = apply(TopP(each_row(logits, 0.3)), logits)
    np.testing.assert_array_equal(actual, warped(TopPLogitsWarper(0.3), logits))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("min_p", MIN_PS)
def test_min_p_keeps_what_transformers_keeps(min_p: float, size: int) -> None:
    logits = logits_of(size)
    actual = apply(MinP(each_row(logits, min_p)), logits)
    np.testing.assert_array_equal(actual, warped(MinPLogitsWarper(min_p), logits))
    probabilities = softmax64(logits)
    share = probabilities / probabilities.max(-1, keepdims=True)
    certain = np.abs(share - min_p) > 1e-6
    np.testing.assert_array_equal(
        actual[certain], np.where(share < min_p, -np.inf, logits)[certain]
    )


def test_min_p_of_one_keeps_the_likeliest_and_its_ties() -> None:
    logits = np.array([[2, 1, 2, 0]], np.float32)
    kept = apply(MinP(each_row(logits, 1.0)), logits) > -np.inf
    assert kept.tolist() == [[True, False, True, False]]


def typical_reference(logits: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """What stays, in float64, and where float32 may differ: near the last one that stays."""
    weights = softmax64(logits)
    surprise = -np.log(np.where(weights > 0, weights, 1))
    entropy = (weights * surprise).sum(-1, keepdims=True)
    distance = np.where(weights > 0, np.abs(surprise - entropy), np.inf)
    ordered = np.sort(distance, axis=-1)
    cumulative = np.cumsum(np.take_along_axis(weights, np.argsort(distance, -1), -1), -1)
    last = np.minimum((cumulative < p - 1e-6).sum(-1, keepdims=True), logits.shape[1] - 1)
    also = np.minimum((cumulative < p + 1e-6).sum(-1, keepdims=True), logits.shape[1] - 1)
    low, high = (np.take_along_axis(ordered, index, -1) for index in (last, also))
    certain = (distance < low - 1e-5) | (distance > high + 1e-5) | (weights == 0)
    return (distance <= high) & (weights > 0), certain


@pytest.mark.typed
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("p", TYPICAL_PS)
def test_typical_p_keeps_what_transformers_keeps(p: float, size: int) -> None:
    logits = logits_of(size)
    actual = apply(TypicalP(each_row(logits, p)), logits)
    kept = actual > -np.inf
    np.testing.assert_array_equal(actual[kept], logits[kept])
    reference, certain = typical_reference(logits, p)
    theirs = warped(TypicalLogitsWarper(p), logits) > -np.inf
    np.testing.assert_array_equal(kept[certain], theirs[certain])
    np.testing.assert_array_equal(kept[certain], reference[certain])
    assert kept.any(-1).all()
    assert certain.mean() > 0.6  # rows whose tokens are all as likely are uncertain throughout


@pytest.mark.typed
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("epsilon", CUTOFFS)
def test_cutoffs_keep_what_transformers_keeps(epsilon: float, size: int) -> None:
    logits = logits_of(size)
    weights = softmax64(logits)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1, keepdims=True)
    eta = np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-entropy))
    for ours, theirs, least in (
        (EpsilonCutoff, EpsilonLogitsWarper, epsilon),
        (EtaCutoff, EtaLogitsWarper, eta),
    ):
        actual = apply(ours(each_row(logits, epsilon)), logits)
        certain = np.abs(weights / least - 1) > 1e-5
        expected = warped(theirs(epsilon), logits)
        np.testing.assert_array_equal(actual[certain], expected[certain])
        dropped = (weights < least) & (logits < logits.max(-1, keepdims=True))
        np.testing.assert_array_equal(
            (actual == -np.inf)[certain], (dropped | (weights == 0))[certain]
        )
        # Five tokens of equal logits have the probability 0.2, to the last bit or nearly.
        assert certain.mean() > 0.8 and (actual > -np.inf).any(-1).all()


def test_a_typical_p_that_takes_the_likeliest_would_be_noticed() -> None:
    """Control: of a peaked row it is not the likeliest tokens that stay."""
    logits = np.log(np.array([[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]], np.float32))
    kept = apply(TypicalP(each_row(logits, 0.25)), logits) > -np.inf
    theirs = warped(TypicalLogitsWarper(0.25), logits) > -np.inf
    np.testing.assert_array_equal(kept, theirs)
    assert not np.array_equal(kept, apply(TopP(each_row(logits, 0.25)), logits) > -np.inf)


@pytest.mark.typed
def test_rows_have_values_of_their_own_and_may_be_off() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (3, 97)).astype(np.float32)
    k = apply(TopK(jnp.array([0, 3, 500], jnp.int32), largest=512), logits)
    p = apply(TopP(jnp.array([1.0, 0.3, 0.9])), logits)
    min_p = apply(MinP(jnp.array([0.0, 0.3, 0.9])), logits)
    temperature = apply(Temperature(jnp.array([1.0, 0.3, 2.0])), logits)
    for off in (k, p, min_p, temperature):
        np.testing.assert_array_equal(off[0], logits[0])
    for row, (count, top) in enumerate([(3, 0.3), (500, 0.9)], 1):
        one = logits[[row]]
        np.testing.assert_array_equal(k[[row]], warped(TopKLogitsWarper(count), one))
        np.testing.assert_array_equal(p[[row]], warped(TopPLogitsWarper(top), one))
        np.testing.assert_array_equal(min_p[[row]], warped(MinPLogitsWarper(top), one))


def test_a_top_p_without_the_crossing_token_would_be_noticed() -> None:
    """Control: the rule that many write, sums of at most p, keeps one fewer."""
    logits = np.sort(logits_of(97)[1:4], axis=-1)
    above = np.cumsum(softmax64(logits)[:, ::-1], -1)[:, ::-1]
    reference, certain = top_p_reference(logits, 0.9)
    wrong = np.where(above <= 0.9, logits, -np.inf)
    assert ((wrong != reference) & certain).sum(-1).tolist() == [1, 1, 1]
