"""The four examples of chunks give what whole texts give."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from neox_eqx import GenerationOptions, TextGenerator
from scripts import chunk_examples
from tests.hf_models import config_json, hf_logits, pair
from tests.text.checkpoints import EOS, byte_level

TOKENIZER = byte_level()
HF, MODEL = pair(
    config_json(
        32,
        2,
        vocab_size=TOKENIZER.get_vocab_size(),
        max_position_embeddings=160,
        eos_token_id=TOKENIZER.token_to_id(EOS),
    )
)
PROMPT = "Two cats and three dogs"


def completions(prompts: list[str], options: GenerationOptions) -> list[str]:
    """Of whole prompts; 40 new tokens, as in the examples."""
    generator = TextGenerator(MODEL, TOKENIZER)
    done = generator.generate(prompts, options)
    return [TOKENIZER.decode(completion.tokens) for completion in done]


def test_score_texts() -> None:
    texts = [PROMPT, "日本語"]
    for score, text in zip(chunk_examples.score_texts(MODEL, TOKENIZER, texts), texts, strict=True):
        ids = np.array([TOKENIZER.encode(text).ids])
        logits = hf_logits(HF, ids, np.ones(ids.shape, bool))[0, :-1].astype(np.float64)
        chosen = np.take_along_axis(logits, ids[0, 1:, None], axis=1)[:, 0]
        expected = (chosen - np.log(np.exp(logits).sum(-1))).sum()
        assert score == pytest.approx(expected, abs=1e-4)


def test_several_samples() -> None:
    samples = chunk_examples.several_samples(MODEL, TOKENIZER, PROMPT, 4)
    options = GenerationOptions(temperature=0.8, num_samples=4, max_new_tokens=40)
    assert samples == completions([PROMPT], options)


def test_prompts_that_share_a_preamble_and_turns_of_a_conversation() -> None:
    greedy = GenerationOptions(temperature=0, max_new_tokens=40)
    ends = [" went home.", "?"]
    answers = chunk_examples.many_prompts(MODEL, TOKENIZER, PROMPT, ends)
    assert answers == completions([PROMPT + end for end in ends], greedy)
    turns = chunk_examples.conversation(MODEL, TOKENIZER, [PROMPT + "?", ends[0]])
    assert turns[0] == answers[1]
