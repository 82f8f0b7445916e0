"""What compiles, how often, and what the compiled decoding does with its cache."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from neox_eqx.generation.decoding.loop import decode, decode_all, read_prompts
from neox_eqx.generation.decoding.run import pad_prompts
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.decoding.state import FIRST_SLOTS, State
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from tests.generation.completions import ours, random_prompts, request
from tests.hf_models import config_json, family, pair, stack_layers

COMPILATION = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by one for each program that XLA compiles within the block."""
    seen: list[str] = []

    def note(event: str, duration: float, **_: Any) -> None:
        if event == COMPILATION:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_a_bucket_holds_its_length_and_a_third_of_padding_at_most() -> None:
    sizes = [bucket(length) for length in range(1, 5000)]
    assert sizes == sorted(sizes)
    for length, size in enumerate(sizes, 1):
        assert length <= size
        assert size == 16 or size - length < size / 3
        assert bucket(size) == size
    assert sorted(set(sizes))[:7] == [16, 24, 32, 48, 64, 96, 128]


def test_new_lengths_values_and_seeds_compile_nothing() -> None:
    _, model = family("pythia-70m")
    first = dict(temperature=0.7, top_p=0.9, max_new_tokens=9, top_k=20)

    def complete(lengths: tuple[int, ...], **own: Any) -> None:
        prompts = random_prompts(model.config.vocab_size, lengths, seed=sum(lengths))
        ours(model, [request(prompt, **{**first, **own}) for prompt in prompts], [3])

    complete((5, 9))
    with compilations() as seen:
        complete((16, 1))
        complete((3, 3), temperature=1.3, top_p=0.2, seed=9, max_new_tokens=30)
        complete((3, 3), top_k=18)
    assert not seen
    with compilations() as seen:  # control: the next bucket does compile
        complete((17, 1))
    assert seen


def test_a_batch_runs_two_programs_and_nothing_beside_them() -> None:
    """A cold process loads all of them before the first token."""
    _, model = family("pythia-70m")
    (prompt,) = random_prompts(model.config.vocab_size, (7,))
    options = dict(temperature=0.7, top_k=3, repetition_penalty=1.1, max_new_tokens=9)
    jax.clear_caches()
    with compilations() as seen:
        ours(model, [request(prompt, **options)])
    assert len(seen) == 2


def test_the_layers_are_traced_once_for_all_of_them() -> None:
    calls = []

    class Counted(eqx.Module):
        mlp: eqx.Module

        def __call__(self, x: Any, context: Any) -> Any:
            calls.append(x)
            return self.mlp(x, context)  # type: ignore[operator]

    _, model = family("pythia-70m")
    layers = tuple(
        eqx.tree_at(lambda block: block.mlp, block, Counted(block.mlp)) for block in model.layers
    )
    model = eqx.tree_at(lambda model: model.layers, model, layers)
    jax.eval_shape(model, jnp.zeros((1, 4), int), jnp.ones((1, 4), bool))
    assert len(model.layers) > 1
    assert len(calls) == 1


def started(
    model: GPTNeoX, limit: int = 40, eos: tuple[int, ...] = (1,), **own: Any
) -> tuple[Any, ...]:
    """The arguments of `decode` after a prefill of three prompts."""
    prompts = random_prompts(model.config.vocab_size, (5, 2, 8))
    ids, valid = pad_prompts(prompts, model.config.vocab_size)
    options = [request(prompt, **own).options for prompt in prompts]
    sampler = Sampler.of(options, [limit] * 3, Vocabulary(eos))
    prompt, state = read_prompts(model, ids, valid, sampler)
    return model, (prompt,), state, sampler, jnp.int32(39)


def copies_of(program: str, segment: Segment) -> list[str]:
    """The lines of a compiled program that copy an array of the shape of the segment's keys."""
    shape = ",".join(map(str, jax.tree.leaves(segment.kv)[0].shape))
    return re.findall(rf"^.*= f32\[{shape}\]\S* copy\(.*$", program, re.MULTILINE)


def cache_model(stacked: bool) -> GPTNeoX:
    # No other array has the shape of its cache: 3 rows, 4 heads, 64 slots of 12.
    _, model = pair(config_json(48, 4, vocab_size=80, max_position_embeddings=128))
    return stack_layers(model) if stacked else model


@pytest.mark.parametrize(("stacked", "own"), [(False, {}), (True, {}), (False, {"temperature": 1})])
def test_decoding_copies_no_cache_and_reuses_its_state(stacked: bool, own: dict[str, Any]) -> None:
    arguments = started(cache_model(stacked), **own)
    state = arguments[2]
    compiled = decode.lower(*arguments).compile()
    assert not copies_of(compiled.as_text(), state.generated)
    aliased = compiled.memory_analysis().alias_size_in_bytes
    assert aliased >= sum(leaf.nbytes for leaf in jax.tree.leaves(state.generated))
    decode(*arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.generated.kv))


def test_the_smaller_cache_is_gone_once_it_has_grown() -> None:
    """Also where a caller still holds the state that it was part of."""
    *arguments, _ = started(cache_model(stacked=False), limit=100, eos=())
    steps = decode_all(*arguments, stride=32)
    held = [next(steps) for _ in range(4)]
    slots = [one.rows.slots for one in held]
    assert slots[0] == slots[2] == FIRST_SLOTS and slots[3] == 2 * FIRST_SLOTS
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(held[2].generated.kv))


def test_a_write_that_does_not_wait_for_the_token_would_be_noticed() -> None:
    """Control: the plain way to write the loop copies every cache at every token."""
    model, past, state, sampler, until = started(cache_model(stacked=False))

    def step(state: State) -> State:
        newest = state.history.newest[:, None]
        segments = (*past, state.generated)
        hidden, new = model(newest, jnp.ones(newest.shape, bool), segments)
        written = state.generated.write(new, state.clock), state.clock + 1
        state = eqx.tree_at(lambda state: (state.generated, state.clock), state, written)
        return state.add(model.logits(hidden[:, 0]), sampler)

    def plain(state: State) -> State:
        return lax.while_loop(lambda state: state.clock < until, step, state)

    program = jax.jit(plain, donate_argnums=0).lower(state).compile().as_text()
    assert len(copies_of(program, state.generated)) >= 4
