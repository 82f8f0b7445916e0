"""A kept text: prompts are read from where they differ from it, with transformers' answers."""

import dataclasses

import numpy as np
import pytest

from neox_eqx.generation.chunks.kept_text import KeptText
from neox_eqx.generation.vocabulary import NO_VOCABULARY, Vocabulary
from neox_eqx.rope import RopeParameters
from tests.generation.completions import ENDLESS, random_prompts, request, theirs
from tests.generation.stories import CONFIG, VOCAB
from tests.hf_models import pair

HF, MODEL = pair({**CONFIG, "num_hidden_layers": 1, "max_position_embeddings": 400})
FIRST, SECOND, OTHER = random_prompts(VOCAB, (11, 4, 5), seed=5)
NEW = 6


def answer(kept: KeptText, prompt: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The answer to a prompt, and how many of its tokens were read for it."""
    before = kept.tokens_read
    *_, row = kept.answer(request(prompt, max_new_tokens=NEW), Vocabulary((ENDLESS,)))
    return row.tokens, kept.tokens_read - before


def test_a_prompt_is_read_from_where_it_differs() -> None:
    kept, known = KeptText(MODEL), ()
    prompt = FIRST
    for place, rest in [(None, SECOND), (14, OTHER), (5, SECOND), (5, ()), (1, OTHER), (0, OTHER)]:
        (expected,), _ = theirs(HF, [prompt], NEW)
        same = np.cumprod([a == b for a, b in zip(known, prompt[:-1], strict=False)]).sum()
        assert answer(kept, prompt) == (expected, len(prompt) - same)
        assert kept.tokens == prompt + expected
        known = kept.tokens
        prompt = known[:place] + rest  # goes on, or says something else from some place on


def test_an_answer_that_is_left_leaves_what_was_kept() -> None:
    kept = KeptText(MODEL)
    expected, _ = answer(kept, FIRST)
    next(kept.answer(request(OTHER, max_new_tokens=NEW), NO_VOCABULARY))
    assert kept.tokens == FIRST + expected
    assert answer(kept, FIRST) == (expected, 1)


@pytest.mark.slow
def test_more_slots_come_as_the_text_grows() -> None:
    kept = KeptText(MODEL)
    (prompt,) = random_prompts(VOCAB, (300,), seed=6)
    answer(kept, prompt[:200])
    (expected,), _ = theirs(HF, [prompt], NEW)
    assert answer(kept, prompt) == (expected, 100)


def test_keys_that_depend_on_the_texts_length_are_not_kept() -> None:
    rope = RopeParameters(rope_type="dynamic", factor=2.0, partial_rotary_factor=1.0)
    config = dataclasses.replace(
        MODEL.config, rope_parameters=rope, max_position_embeddings=len(FIRST) + NEW
    )
    kept = KeptText(dataclasses.replace(MODEL, config=config))
    _, read = answer(kept, FIRST)
    assert answer(kept, FIRST) == (kept.tokens[len(FIRST) :], 1)
    assert answer(kept, FIRST + SECOND + OTHER)[1] == len(FIRST + SECOND + OTHER)
    assert answer(kept, FIRST)[1] == read == len(FIRST)
