"""The four examples of chunks give what whole texts give."""

import numpy as np
import pytest

from examples import chunks
from tests.generation.completions import theirs_alone
from tests.hf_models import config_json, hf_logits, pair
from tests.text.checkpoints import EOS, byte_level

TOKENIZER = byte_level()
HF, MODEL = pair(
    config_json(
        32,
        2,
        num_hidden_layers=1,
        vocab_size=TOKENIZER.get_vocab_size(),
        max_position_embeddings=160,
        eos_token_id=TOKENIZER.token_to_id(EOS),
    )
)
PROMPT = "Two cats and three dogs"


def greedy(prompts: list[str]) -> list[str]:
    """What transformers writes after whole prompts."""
    rows, _ = theirs_alone(
        HF,
        [tuple(TOKENIZER.encode(prompt).ids) for prompt in prompts],
        40,
        MODEL.config.eos_token_ids,
    )
    return [TOKENIZER.decode(row) for row in rows]


def test_score_texts() -> None:
    texts = [PROMPT, "日本語"]
    for score, text in zip(chunks.score_texts(MODEL, TOKENIZER, texts), texts, strict=True):
        ids = np.array([TOKENIZER.encode(text).ids])
        logits = hf_logits(HF, ids, np.ones(ids.shape, bool))[0, :-1].astype(np.float64)
        chosen = np.take_along_axis(logits, ids[0, 1:, None], axis=1)[:, 0]
        expected = (chosen - np.log(np.exp(logits).sum(-1))).sum()
        assert score == pytest.approx(expected, abs=1e-4)


def test_several_samples() -> None:
    samples = chunks.several_samples(MODEL, TOKENIZER, PROMPT, 2)
    assert len(set(samples)) == 2


def test_prompts_that_share_a_preamble_and_turns_of_a_conversation() -> None:
    ends = [" went home.", "?"]
    answers = chunks.many_prompts(MODEL, TOKENIZER, PROMPT, ends)
    assert answers == greedy([PROMPT + end for end in ends])
    turns = [PROMPT + ends[0], ends[1]]
    first, second = chunks.conversation(MODEL, TOKENIZER, turns)
    assert first == answers[0]
    assert second != answers[1]
