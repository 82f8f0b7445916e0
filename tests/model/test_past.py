"""A text may come in pieces, share its past and be padded anywhere: the numbers stay the same."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from neox_eqx.model.kernels.flash import Flash
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from tests.hf_models import family, hf_logits, our_logits, padded_batch, stack_layers

# Only the order of float32 sums differs. Measured: at most 2.0e-6.
TOLERANCE = 5e-6
FORMS = ["pythia-70m", "redpajama-3b", "line-3.6b"]


def batch(vocab_size: int, rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens with padding anywhere; the first token of each row is real."""
    random = np.random.default_rng(seed)
    valid = random.random((rows, length)) < 0.8
    valid[:, 0] = True
    return random.integers(0, vocab_size, (rows, length)), valid


def run(
    model: GPTNeoX, tokens: np.ndarray, valid: np.ndarray, past: tuple[Segment, ...] = ()
) -> tuple[np.ndarray, Segment]:
    hidden, segment = _run(model, jnp.asarray(tokens), jnp.asarray(valid), past)
    return np.asarray(hidden), segment


_run = eqx.filter_jit(lambda model, tokens, valid, past: model(tokens, valid, past))


def in_form(name: str, stacked: bool) -> GPTNeoX:
    _, model = family(name)
    return stack_layers(model) if stacked else model


def close_where(valid: np.ndarray, actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual[valid], expected[valid], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [*FORMS, "no-attention-bias"])
def test_stacked_layers_compute_what_unrolled_ones_do(name: str) -> None:
    unrolled, stacked = in_form(name, False), in_form(name, True)
    assert stacked.stacked and not unrolled.stacked
    tokens, valid = batch(unrolled.config.vocab_size, 3, 9)
    expected, segment = run(unrolled, tokens, valid)
    actual, stacked_segment = run(stacked, tokens, valid)
    close_where(valid, actual, expected)
    for layer, kv in enumerate(segment.kv):
        np.testing.assert_allclose(stacked_segment.kv.key[layer], kv.key, atol=TOLERANCE)
        np.testing.assert_allclose(stacked_segment.kv.value[layer], kv.value, atol=TOLERANCE)


@pytest.mark.parametrize(("stacked", "seed"), [(False, 0), (True, 1), (False, 2), (True, 2)])
def test_chunks_that_attend_to_earlier_chunks_equal_the_whole(stacked: bool, seed: int) -> None:
    model = in_form(FORMS[seed], stacked)
    tokens, valid = batch(model.config.vocab_size, 3, 14, seed)
    expected, _ = run(model, tokens, valid)
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, 14), 2, replace=False))
    past: tuple[Segment, ...] = ()
    chunks = []
    for start, stop in zip([0, *cuts], [*cuts, 14], strict=True):
        hidden, segment = run(model, tokens[:, start:stop], valid[:, start:stop], past)
        past = (*past, segment)
        chunks.append(hidden)
    close_where(valid, np.concatenate(chunks, axis=1), expected)


@pytest.mark.typed
@pytest.mark.parametrize(("stacked", "shared_rows"), [(False, 1), (False, 2), (True, 2)])
@pytest.mark.parametrize("together", [1, 2])
def test_a_shared_past_serves_as_repeated_rows_do(
    shared_rows: int, stacked: bool, together: int
) -> None:
    model = dataclasses.replace(in_form("pythia-70m", stacked), heads_together=together)
    prefix, prefix_valid = batch(model.config.vocab_size, shared_rows, 6)
    tokens, valid = batch(model.config.vocab_size, 4, 5, seed=1)
    repeats = 4 // shared_rows
    whole = np.concatenate([np.repeat(prefix, repeats, 0), tokens], axis=1)
    whole_valid = np.concatenate([np.repeat(prefix_valid, repeats, 0), valid], axis=1)
    expected, _ = run(model, whole, whole_valid)

    _, shared = run(model, prefix, prefix_valid)
    first, own = run(model, tokens[:, :3], valid[:, :3], (shared,))
    second, _ = run(model, tokens[:, 3:], valid[:, 3:], (shared, own))
    close_where(valid, np.concatenate([first, second], axis=1), expected[:, 6:])


@pytest.mark.parametrize(
    ("stacked", "together"), [(False, 1), (True, 1), (False, 2), (True, 2), (True, 4)]
)
def test_token_by_token_through_a_buffer_equals_the_whole(stacked: bool, together: int) -> None:
    model = in_form("redpajama-3b", stacked)
    model = dataclasses.replace(model, heads_together=together)
    tokens, valid = batch(model.config.vocab_size, 3, 8)
    expected, _ = run(model, tokens, valid)
    _, prompt = run(model, tokens[:, :4], valid[:, :4])
    buffer = model.empty_segment(3, 6)
    groups = model.config.num_attention_heads // together
    assert {leaf.shape[-3] for leaf in jax.tree.leaves(buffer.kv)} == {groups}
    buffer = buffer.write(prompt, jnp.asarray(0))
    for slot in range(4, 8):
        if slot == 6:
            buffer = buffer.pad(6)
        now = slice(slot, slot + 1)
        hidden, new = run(model, tokens[:, now], valid[:, now], (buffer,))
        close_where(valid[:, now], hidden, expected[:, now])
        buffer = buffer.write(new, jnp.asarray(slot))
    assert buffer.valid.tolist() == np.pad(valid, ((0, 0), (0, 4))).tolist()


def test_padding_between_tokens_changes_nothing() -> None:
    theirs, model = family("polyglot-ko-1.3b")
    tokens, valid = batch(model.config.vocab_size, 2, 12, seed=3)
    actual = our_logits(model, tokens, valid)
    for row, real in enumerate(valid):
        alone = tokens[row, real][None]
        expected = hf_logits(theirs, alone, np.ones(alone.shape, bool))
        np.testing.assert_allclose(actual[row, real], expected[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_padding_alone_stay_finite(dtype: str) -> None:
    _, model = family("pythia-70m")
    low = jax.tree.map(lambda x: x.astype(dtype), model)
    tokens, _ = batch(model.config.vocab_size, 2, 5)
    padding = np.zeros(tokens.shape, bool)
    _, past = run(low, tokens, padding)
    hidden, segment = run(low, tokens, padding, (past,))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((past, hidden, segment)))


def test_an_embedding_of_nan_at_padding_reaches_no_real_position() -> None:
    _, model = family("pythia-70m")
    tokens, valid = padded_batch(model.config.vocab_size)
    tokens = np.where(valid, np.maximum(tokens, 1), 0)
    broken = eqx.tree_at(
        lambda m: m.embed_in.weight, model, model.embed_in.weight.at[0].set(jnp.nan)
    )
    expected, actual = our_logits(model, tokens, valid), our_logits(broken, tokens, valid)
    np.testing.assert_array_equal(actual[valid], expected[valid])


@pytest.mark.typed
def test_prompts_by_the_kernel_of_a_tpu_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by Pallas' interpreter; padding stands anywhere."""
    model = in_form("redpajama-3b", stacked=True)
    tokens, valid = batch(model.config.vocab_size, 2, 128)
    expected, _ = run(model, tokens, valid)
    monkeypatch.setattr(Flash, "fits", staticmethod(lambda length, platform: True))
    with pltpu.force_tpu_interpret_mode():
        hidden, segment = model(jnp.asarray(tokens), jnp.asarray(valid))
    close_where(valid, np.asarray(hidden), expected)
    assert segment.valid.tolist() == valid.tolist()
