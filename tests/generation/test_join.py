"""A request that joins a running batch gets the tokens that it gets alone, and changes no other."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.checkpoint.load import load
from neox_eqx.generation.decoding.join import join
from neox_eqx.generation.decoding.loop import advance, read_prompts
from neox_eqx.generation.decoding.run import Request, Row, pad_prompts, room, rows_of, strategy_of
from neox_eqx.generation.decoding.state import FIRST_SLOTS
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import ours, random_prompts, request
from tests.generation.test_compiled import compilations
from tests.hf_models import config_json, hf_model, pair

CONFIG = config_json(48, 4, vocab_size=96, max_position_embeddings=192)
EOS = (3, 50, 61, 77, 90)
SPELLED = tuple(bytes([32 + id]) for id in range(96))
VOCABULARY = Vocabulary(EOS, token_bytes=SPELLED)
LONG, LATE = random_prompts(96, (11, 7), seed=1)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": dict(temperature=1.2, top_k=30, seed=4),
    "penalties": dict(
        repetition_penalty=1.4,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        no_repeat_ngram_size=2,
        exponential_decay_length_penalty=(6, 1.4),
    ),
    "minimum lengths": dict(min_new_tokens=14, temperature=2.0, top_k=0, seed=0),
    "minimum length with the prompt": dict(min_length=20, temperature=2.0, top_k=0, seed=0),
    "stop texts": dict(stop=("ab", *"kmtx", (8, 9)), temperature=2.0, top_k=0, seed=3),
    "first tokens": dict(
        bad_words=((5, 6), (70,)), logit_bias={4: 3.0}, temperature=1.0, top_k=0, seed=6
    ),
}


@functools.cache
def one_device() -> GPTNeoX:
    return pair(CONFIG)[1]


def asked(prompt: Sequence[int], kind: str, new: int) -> Request:
    own = {"begin_suppress_tokens": [10, 11, 12]} if kind == "first tokens" else {}
    return request(prompt, own, **KINDS[kind], max_new_tokens=new)


def running(new: int) -> Request:
    """A greedy one that goes on for so many tokens."""
    return request(LONG, max_new_tokens=new, min_new_tokens=new)


MATES = [asked(LONG, kind, 9).options for kind in KINDS]


class Batch:
    """Requests in their places; the others wait, as a copy of the first of one token."""

    def __init__(
        self,
        model: GPTNeoX,
        requests: Sequence[Request],
        places: int,
        mates: Sequence[ResolvedOptions] = MATES,
    ):
        self.model, self.mates = model, mates
        self.requests = [*requests, *[requests[0]] * (places - len(requests))]
        self.limits = [self._limit(one) for one in requests] + [1] * (places - len(requests))
        self.prompt, self.state = self._prefill(self.requests, self.limits)

    def join(self, late: Request, place: int) -> None:
        rows = self.model.mesh.shape["data"] if self.model.mesh else 1
        prompt, state = self._prefill([late] * rows, [self._limit(late)] * rows)
        self.requests[place], self.limits[place] = late, self._limit(late)
        self.prompt, self.state = join(
            self.model, self.prompt, self.state, prompt, state, jnp.int32(place)
        )

    def advance(self, tokens: int) -> None:
        strategy = self._strategy(self.requests, self.limits)
        until = int(self.state.clock) + tokens
        while int(self.state.clock) < until and bool(self.state.going_on()):
            left = until - int(self.state.clock)
            self.state = advance(self.model, (self.prompt,), self.state, strategy, left)

    def rows(self) -> list[Row]:
        rows = rows_of(self.state, self._strategy(self.requests, self.limits), self.model)
        assert rows is not None
        return rows

    def _limit(self, one: Request) -> int:
        return one.options.new_tokens(len(one.tokens), room(self.model, ()))

    def _prefill(self, requests: Sequence[Request], limits: Sequence[int]) -> Any:
        ids, valid = pad_prompts([one.tokens for one in requests], 96)
        return read_prompts(self.model, ids, valid, self._strategy(requests, limits))

    def _strategy(self, requests: Sequence[Request], limits: Sequence[int]) -> Any:
        options = [one.options for one in requests]
        return strategy_of(options, limits, VOCABULARY, self.mates)


def check_alone(model: GPTNeoX, rows: Sequence[Row], requests: Sequence[Request]) -> None:
    """Each row is what its request gets in a batch of its own."""
    for row, one in zip(rows, requests, strict=True):
        mates = MATES if one.options.num_beams == 1 else []
        (alone,) = ours(model, [one], EOS, token_bytes=SPELLED, batch_mates=mates)
        assert (row.tokens, row.finish_reason) == (alone.tokens, alone.finish_reason)
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-4, rtol=0)


@pytest.mark.typed
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_starts_while_another_is_at_its_tenth_token(kind: str) -> None:
    first, late = running(40), asked(LATE, kind, 25)
    beside = asked(LATE, kind, 30)
    batch = Batch(one_device(), [first, beside], places=3)
    batch.advance(9)
    assert len(batch.rows()[0].tokens) == 10
    batch.join(late, place=2)
    batch.advance(40)
    check_alone(one_device(), batch.rows(), [first, beside, late])
    if kind.startswith("minimum length"):  # where another would have ended before
        assert len(batch.rows()[2].tokens) >= 13 and batch.rows()[2].finish_reason == "eos"
    if kind == "stop texts":
        assert batch.rows()[2].finish_reason == "stop"


def test_rows_follow_each_other_at_a_place_also_once_the_slots_have_doubled() -> None:
    first, late = running(100), asked(LATE, "sampling", 12)
    model = one_device()
    batch = Batch(model, [first], places=3)
    others = [
        asked(prompt, kind, 12) for prompt, kind in zip((LATE, LONG, LATE), KINDS, strict=False)
    ]
    batch.advance(3)
    for place, other in zip((1, 2, 1), others, strict=True):
        batch.join(other, place)
        batch.advance(20)
        check_alone(model, [batch.rows()[place]], [other])
    assert batch.state.rows.slots == FIRST_SLOTS
    batch.advance(10)
    assert batch.state.rows.slots == 2 * FIRST_SLOTS
    batch.join(late, place=2)
    batch.advance(40)
    check_alone(model, batch.rows(), [first, others[2], late])


def test_joining_at_another_place_with_other_options_compiles_nothing() -> None:
    batch = Batch(one_device(), [running(40)], places=3)
    batch.advance(5)
    batch.join(asked(LATE, "sampling", 9), place=1)
    batch.advance(5)
    with compilations() as seen:
        batch.join(asked(LATE[2:], "penalties", 12), place=2)
        batch.advance(5)
    assert not seen


def test_what_a_failed_row_left_does_not_reach_the_one_in_its_place() -> None:
    first, late = running(30), asked(LATE, "greedy", 12)
    batch = Batch(one_device(), [first], places=3)
    batch.advance(9)
    kv = jax.tree.map(lambda x: x.at[1].set(jnp.nan), batch.state.generated.kv)
    prompt = jax.tree.map(lambda x: x.at[1].set(jnp.nan), batch.prompt.kv)
    batch.state = eqx.tree_at(lambda state: state.generated.kv, batch.state, kv)
    batch.prompt = eqx.tree_at(lambda segment: segment.kv, batch.prompt, prompt)
    batch.join(late, place=1)
    batch.advance(30)
    check_alone(one_device(), batch.rows()[:2], [first, late])


@pytest.mark.slow
def test_a_search_joins_searches() -> None:
    own = dict(num_beams=2, max_new_tokens=20, num_return_sequences=1)
    first, late = request(LONG, **own), request(LATE, **own)
    batch = Batch(one_device(), [first], places=2, mates=())
    batch.advance(9)
    batch.join(late, place=1)
    batch.advance(30)
    check_alone(one_device(), batch.rows()[::2], [first, late])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("joined")
    hf_model(CONFIG).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    "mesh", [pytest.param("data=2,model=1", marks=pytest.mark.slow), "data=2,model=2"]
)
def test_rows_that_join_on_a_mesh(checkpoint: Path, mesh: str) -> None:
    model = load(checkpoint, mesh=mesh, stacked=True)
    first = running(40)
    late = [asked(LATE, kind, 20) for kind in ("sampling", "penalties", "stop texts")]
    batch = Batch(model, [first], places=4, mates=[one.options for one in (first, *late)])
    for place, one in enumerate(late, 1):
        batch.advance(4)
        batch.join(one, place)
    where = jax.tree.leaves(batch.state.generated.kv)[0].sharding
    assert where.spec[1] == "data"
    batch.advance(40)
    check_alone(one_device(), batch.rows(), [first, *late])
