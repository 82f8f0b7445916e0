"""Texts and completions as tokens to score, and what is told of them."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import GPTNeoXForCausalLM

from neox_eqx.errors import InputError
from neox_eqx.scoring.encode import Text, encode_text
from neox_eqx.scoring.pairs import Pair, score_pairs
from neox_eqx.scoring.texts import score_texts
from neox_eqx.text.generator import TextGenerator
from tests.text.checkpoints import BOS, byte_level, save_checkpoint

# Measured 3.4e-6.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextGenerator, GPTNeoXForCausalLM]:
    directory: Path = tmp_path_factory.mktemp("saved")
    hf = save_checkpoint(directory, byte_level())
    return TextGenerator.load(directory), hf


@pytest.mark.typed
def test_scores_come_in_the_order_of_the_texts_and_are_those_of_transformers(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM],
) -> None:
    generator, hf = saved
    texts: list[Text] = [
        "Two cats and three dogs went home.",
        ("How many", " animals went home?"),
        "안녕하세요, 세계!",
        "a",
        ("Two cats ", "and 👍🏽"),
    ]
    scores = score_texts(generator, texts, batch_size=2, top_candidates=2)
    for text, score in zip(texts, scores, strict=True):
        is_whole = isinstance(text, str)
        ids = generator.tokenizer.encode(text if is_whole else "".join(text)).ids
        prompt = () if is_whole else score.prompt_tokens
        assert [*prompt, *score.tokens] == ids
        with torch.no_grad():
            expected = hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        first = max(len(prompt), 1)
        logprobs = [float(expected[place - 1, ids[place]]) for place in range(first, len(ids))]
        greedy = [int(expected[place - 1].argmax()) for place in range(first, len(ids))]
        own = score.logprobs[is_whole:]
        assert own == pytest.approx(logprobs, abs=TOLERANCE)
        assert score.sum_logprob == pytest.approx(math.fsum(own), abs=1e-12)
        assert score.num_tokens == len(own) and len(score.tokens) == len(score.logprobs)
        assert score.is_greedy == (greedy == ids[first:])
        best = score.candidates[is_whole:]
        assert [candidates[0].token for candidates in best] == greedy
        assert (score.logprobs[0], score.candidates[0]) == (None, None) or not is_whole
    assert (scores[3].num_tokens, scores[3].sum_logprob, scores[3].is_greedy) == (0, 0.0, True)
    assert score_texts(generator, texts[:1])[0].candidates is None


def test_what_is_scored_already_changes_no_bit_of_the_rest(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM],
) -> None:
    model = saved[0].model
    # Of lengths in several buckets, so that batches of the rest alone would have other shapes.
    pairs = [Pair((2,), tuple(range(3 + n, 10 + n + 8 * (n % 7)))[:60]) for n in range(20)]
    whole = dict(itertools.chain(*score_pairs(model, pairs, batch_size=4)))
    done = set(range(20)) - {1, 3, 6, 13, 16}
    rest = dict(itertools.chain(*score_pairs(model, pairs, batch_size=4, done=done)))
    assert rest == {index: whole[index] for index in set(range(20)) - done}


def test_a_completion_is_greedy_if_all_its_tokens_are(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM],
) -> None:
    generator, _ = saved
    sizes = dict(batch_size=2, top_candidates=2)
    (score,) = score_texts(generator, [("Two cats", " and")] * 2, **sizes)[:1]
    likeliest = generator.tokenizer.decode([score.candidates[0][0].token])
    texts = [("Two cats", likeliest), ("Two cats", likeliest + "👍🏽")]
    one, more = score_texts(generator, texts, **sizes)
    assert one.tokens == (score.candidates[0][0].token,) == more.tokens[:1]
    assert one.is_greedy and not more.is_greedy


def test_a_completion_is_what_the_whole_text_has_beyond_the_prompts_tokens(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM],
) -> None:
    generator, _ = saved
    tokenizer = generator.tokenizer
    bos = tokenizer.token_to_id(BOS)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    # Spaces at the end of a prompt belong to the completion: " cats" is a token, "cats" is none.
    spaced = encode_text(generator, ("Two \n ", "cats"))
    assert (spaced.context, spaced.tokens) == (ids("Two"), ids("Two \n cats")[len(ids("Two")) :])
    # The whole has other tokens where prompt and completion meet: those after as many are scored.
    merged = encode_text(generator, ("Two ca", "ts and"))
    assert merged.context == ids("Two ca")
    assert merged.tokens == ids("Two cats and")[len(ids("Two ca")) :]
    for prompt in ("", "  "):
        empty = encode_text(generator, (prompt, "Two"))
        assert (empty.context, empty.tokens) == ((bos,), ids(f"{prompt}Two"))
    begun = encode_text(generator, ("", f"{BOS}Two"))
    assert (begun.context, begun.tokens) == ((bos,), ids("Two"))


def test_a_tokenizer_that_adds_bos_adds_one(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM],
) -> None:
    generator, _ = saved
    tokenizer = byte_level()
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    adding = TextGenerator(generator.model, tokenizer, generator.defaults)
    two = tuple(tokenizer.encode("Two", add_special_tokens=False).ids)
    for text in ("Two", f"{BOS}Two", ("", "Two")):
        pair = encode_text(adding, text)
        assert pair.context + pair.tokens == (bos, *two)
    pair = encode_text(adding, ("Two", " cats"))
    assert pair.context == (bos, *two) and bos not in pair.tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text 2 of 2: the text is empty"),
        (("Two", ""), "text 2 of 2: the completion is empty"),
        ("7" * 66, "has 66 tokens, but the model has 64 positions, which score a text of 65"),
        (("7" * 60, "7" * 6), "has 66 tokens"),
        ("\ud83d", "is not valid Unicode"),
        (("", "\ud83d"), "is not valid Unicode"),
    ],
)
def test_a_text_that_cannot_be_scored_is_named(
    saved: tuple[TextGenerator, GPTNeoXForCausalLM], text: Text, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score_texts(saved[0], ["Two cats", text])


def test_a_token_needs_one_before_it() -> None:
    with pytest.raises(InputError, match="has nothing before its first token; give BOS or EOS as"):
        Pair((), (5, 6)).check(vocab_size=64, positions=64)


def test_sizes_and_lists_are_checked(saved: tuple[TextGenerator, GPTNeoXForCausalLM]) -> None:
    generator, _ = saved
    with pytest.raises(InputError, match="texts must be a list of texts, not the text 'Two'"):
        score_texts(generator, "Two")
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1, not 0"):
        score_texts(generator, ["Two"], batch_size=0)
    with pytest.raises(InputError, match="top_candidates must be a whole number from 0 to 310"):
        score_texts(generator, ["Two"], top_candidates=311)
    assert score_texts(generator, []) == []
    # A text of one token more than there are positions: the last is only predicted.
    (score,) = score_texts(generator, ["7" * 65])
    assert score.num_tokens == 64
