"""Rows end at EOS ids, stop sequences and stop strings, each on its own, and say why."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from neox_eqx.generation.history import NOTHING, History
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.stopping.ending import REASONS, Ending
from neox_eqx.generation.stopping.stop_strings import StopStrings
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.text.words import token_bytes
from tests.generation.completions import ours, random_prompts, request
from tests.hf_models import family
from tests.text.checkpoints import SENTENCES, byte_level, metaspace

SPELLED = tuple(bytes([byte]) for byte in range(256))


def history_of(texts: Sequence[Sequence[int]], new: int = 1) -> History:
    """Rows whose last `new` tokens were generated."""
    width = max(map(len, texts))
    prompt = np.full((len(texts), width), NOTHING, np.int32)
    generated = np.zeros((len(texts), 8), np.int32)
    for row, text in enumerate(texts):
        cut = len(text) - new
        prompt[row, width - cut :] = text[:cut]
        generated[row, :new] = text[cut:]
    return History(jnp.asarray(prompt), jnp.asarray(generated), jnp.full(len(texts), new))


_complete = jax.jit(lambda strings, history: strings.are_complete(history))


def stopped(strings: Sequence[str], spelled: Any, texts: Sequence[Sequence[int]]) -> list[bool]:
    stops = StopStrings.of([tuple(strings)] * len(texts), spelled)
    return np.asarray(_complete(stops, history_of(texts))).tolist()


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"byte level": byte_level(), "byte fallback": metaspace()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_spell_what_transformers_takes_them_to_spell(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    mode = StopStringCriteria._get_stop_string_matching_mode(wrapped(tokenizer))
    assert mode == name.replace(" ", "_")
    tokens, ids = StopStringCriteria.clean_tokenizer_vocab(
        wrapped(tokenizer), stop_string_matching_mode=mode
    )
    assert token_bytes(tokenizer) == tuple(
        token for _, token in sorted(zip(ids, tokens, strict=True))
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_strings_stop_where_transformers_stops(name: str) -> None:
    """Texts of random tokens, and strings cut out near their ends: at tokens and within them."""
    tokenizer = TOKENIZERS[name]
    spelled = token_bytes(tokenizer)
    random = np.random.default_rng(3)
    met = 0
    for _ in range(25):
        ids = [id for sentence in SENTENCES for id in tokenizer.encode(sentence).ids]
        texts = [
            random.choice(ids[:12] if row % 2 else ids, random.integers(2, 30)).tolist()
            for row in range(8)
        ]
        strings = set()
        while len(strings) < 3:
            whole = tokenizer.decode(texts[random.integers(8)], skip_special_tokens=False)
            end = max(1, len(whole) - int(random.integers(4)))
            piece = whole[max(0, end - int(random.integers(1, 9))) : end]
            if piece.strip() and "\ufffd" not in piece:
                strings.add(piece)
        criteria = StopStringCriteria(wrapped(tokenizer), sorted(strings))
        expected = [bool(criteria(torch.tensor([text]), None)[0]) for text in texts]
        assert stopped(sorted(strings), spelled, texts) == expected
        met += sum(expected)
    assert 12 < met < 150


def test_a_string_stops_only_with_the_token_that_completes_it() -> None:
    spelled = (*SPELLED, b"stop", b"opera", b"tion", None, b"")
    stop, opera, tion, unknown, silent = range(256, 261)
    st, s = list(b"st"), list(b"s")
    cases = {
        "in one token": ([*s, stop], True),
        "with more behind it": ([*st, opera], True),
        "with a token behind it": ([*st, opera, tion], False),
        "of bytes": ([*b"xstop"], True),
        "not yet": ([*b"xsto"], False),
        "broken off by an id without a token": ([*st, unknown, *b"op"], False),
        "across a token that spells nothing": ([*st, silent, *b"op"], True),
        "before a token that spells nothing": ([*s, stop, silent], False),
        "after a false start": ([*b"ststop"], True),
    }
    texts = [text for text, _ in cases.values()]
    assert dict(zip(cases, stopped(["stop"], spelled, texts), strict=True)) == {
        name: met for name, (_, met) in cases.items()
    }


@pytest.mark.parametrize("string", ["aab", "aabaaab", "abab", "aaaa", "a"])
def test_strings_that_repeat_themselves_are_found_in_every_text(string: str) -> None:
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("ab"), random.integers(1, 14))) for _ in range(512)]
    met = stopped([string], SPELLED, [list(text.encode()) for text in texts])
    assert met == [text.endswith(string) for text in texts]
    assert any(met) and not all(met)


@pytest.mark.typed
def test_rows_have_strings_of_their_own() -> None:
    rows = [("ab", "xyz"), (), ("b",), ("한",)]
    texts = [list(text.encode()) for text in ("..ab", "..ab", "xyz", "...한")]
    stops = StopStrings.of(rows, SPELLED)
    assert np.asarray(stops.are_complete(history_of(texts))).tolist() == [True, False, False, True]


def test_the_table_has_room_for_any_batch_and_not_for_all_strings_of_a_call() -> None:
    """2 rows stop at 1 to 40 bytes each: at 40 + 39 in all, which 96 states have room for."""
    call = [("x" * length,) for length in range(1, 41)]
    tables = [StopStrings.of(call[at : at + 2], SPELLED, call) for at in (0, 10, 38)]
    assert {table.table.shape for table in tables} == {(len(SPELLED) + 1, 96)}
    few = [StopStrings.of(call[at : at + 2], SPELLED, call[:4]) for at in (0, 2)]
    assert {table.table.shape[1] for table in few} == {16}
    # As many requests with the same strings as there may be need no more than one of them.
    same = StopStrings.of(call[29:30] * 8, SPELLED, call[29:30])
    assert same.table.shape[1] == 32


def reasons(rows: Sequence[dict[str, Any]], new: Sequence[int], limit: int = 9) -> list[str | None]:
    options = [GenerationOptions(**own).resolve({}) for own in rows]
    ending = Ending.of(options, [limit] * len(rows), Vocabulary([7], token_bytes=SPELLED))
    history = history_of([[1, 2, *new]] * len(rows), len(new))
    return [REASONS[number] for number in ending.reason(history).tolist()]


def test_a_sequence_stops_its_row_and_may_begin_in_the_prompt() -> None:
    rows = [
        {"stop": ((2, 3),)},
        {"stop": ((1, 2, 3), (9,))},
        {"stop": ((0, 1, 2, 3),)},
        {"stop": ((2,),)},
        {},
        {"stop": ((3,), "\x02\x03")},
    ]
    assert reasons(rows, [3]) == ["stop", "stop", None, None, None, "stop"]


def test_an_eos_is_named_before_a_stop_and_a_stop_before_the_limit() -> None:
    stop = {"stop": ((7,), (3,))}
    assert reasons([stop], [3, 7], limit=2) == ["eos"]
    assert reasons([stop], [7, 3], limit=2) == ["stop"]
    assert reasons([{}], [7, 3], limit=2) == ["length"]
    assert reasons([{}], [7, 3]) == [None]


def test_a_batch_goes_on_without_the_rows_that_stopped() -> None:
    _, model = family("pythia-70m")
    prompts = random_prompts(128, (5, 9, 3))
    free = ours(model, [request(prompt, max_new_tokens=15) for prompt in prompts])
    stops = [(free[0].tokens[4:6],), (free[1].tokens[2:5], (0,)), ()]
    rows = ours(
        model,
        [
            request(prompt, max_new_tokens=15, stop=stop)
            for prompt, stop in zip(prompts, stops, strict=True)
        ],
    )
    for row, whole, stop in zip(rows, free, stops, strict=True):
        ends = [
            end
            for end in range(1, 16)
            if any(whole.tokens[max(0, end - len(word)) : end] == word for word in stop)
        ]
        assert row.tokens == whole.tokens[: min(ends, default=15)]
        assert row.finish_reason == ("stop" if ends else "length")


def test_a_state_that_only_the_last_token_sees_would_be_noticed() -> None:
    """Control: a string over several tokens is not found where only the newest is looked at."""
    stops = StopStrings.of([("stop",)], SPELLED)
    history = history_of([list(b"stop")])
    assert stops.are_complete(history).all()
    assert not dataclasses.replace(stops, reach=1).are_complete(history).any()
