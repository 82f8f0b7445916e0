"""The chunked cross-entropy and its gradients are those of whole logits in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.training.update.loss import cross_entropy

ROWS, LENGTH, SIZE, VOCAB = 3, 13, 8, 37


def arguments(scale: float = 1.0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    hidden = scale * random.standard_normal((ROWS, LENGTH, SIZE), np.float32)
    head = random.standard_normal((VOCAB, SIZE), np.float32)
    targets = random.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    weights = random.random((ROWS, LENGTH), np.float32)
    weights[:, ::4] = 0
    return hidden, head, targets, weights


def whole(
    hidden: np.ndarray, head: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss and its gradients by hidden states and head, with all logits at once."""
    hidden, head = hidden.astype(np.float64), head.astype(np.float64)
    logits = hidden @ head.T
    logits -= logits.max(-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.eye(VOCAB)[targets]
    loss = -(weights * (logprobs * target).sum(-1)).sum()
    d_logits = (np.exp(logprobs) - target) * weights[..., None]
    return loss, d_logits @ head, np.einsum("btv,btd->vd", d_logits, hidden)


def ours(chunk: int, *values: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    def loss(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return cross_entropy(hidden, head, values[2], values[3], chunk, None)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(values[0], values[1])


@pytest.mark.typed
@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_loss_and_gradients_are_exact_for_any_chunk(chunk: int) -> None:
    values = arguments()
    loss, d_hidden, d_head = whole(*values)
    our_loss, (our_d_hidden, our_d_head) = ours(chunk, *map(jnp.asarray, values))
    assert float(our_loss) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(our_d_hidden, d_hidden, atol=2e-6)
    np.testing.assert_allclose(our_d_head, d_head, atol=5e-6)


def test_without_gradients_the_loss_is_the_same() -> None:
    values = [jnp.asarray(value) for value in arguments()]
    assert cross_entropy(*values, 4, None) == ours(4, *values)[0]


def test_the_gradient_follows_what_the_loss_is_multiplied_by() -> None:
    hidden, head, targets, weights = map(jnp.asarray, arguments())

    def third(head: jax.Array) -> jax.Array:
        return cross_entropy(hidden, head, targets, weights, 4, None) / 3

    _, (_, d_head) = ours(4, hidden, head, targets, weights)
    np.testing.assert_allclose(jax.grad(third)(head), d_head / 3, rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    values = arguments(scale=300.0)
    loss, d_hidden, _ = whole(*values)
    our_loss, (our_d_hidden, _) = ours(4, *map(jnp.asarray, values))
    assert float(our_loss) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(our_d_hidden, d_hidden, atol=1e-3)


def test_bfloat16_is_summed_in_float32() -> None:
    """Over 4,096 tokens of one kind a bfloat16 sum would stop growing after a few hundred."""
    hidden = jnp.ones((1, 4096, 1), jnp.bfloat16)
    head = jnp.zeros((2, 1), jnp.bfloat16)
    targets, weights = jnp.zeros((1, 4096), jnp.int32), jnp.ones((1, 4096))
    loss, (_, d_head) = ours(4, hidden, head, targets, weights)
    # 1,024 roundings of a float32 sum: measured 2e-5.
    assert float(loss) == pytest.approx(4096 * np.log(2), rel=1e-4)
    np.testing.assert_array_equal(np.asarray(d_head, np.float32), [[-2048], [2048]])
