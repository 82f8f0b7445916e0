"""Examples as token ids: what is given, what is learnt, and what becomes of long ones."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.training.data.documents import Document, tokenize
from neox_eqx.training.data.examples import Example
from tests.text.checkpoints import BOS, EOS, byte_level, metaspace

TOKENIZERS = {"byte level": byte_level(), "metaspace": metaspace()}
PATH = Path("data.jsonl")
CONFIG = GPTNeoXConfig(vocab_size=400, bos_token_id=0, eos_token_id=1)


def given(document: Document) -> int:
    """The tokens before the first learnt one, from which on all are."""
    count = int(document.is_learnt.argmax())
    assert document.is_learnt[count:].all()
    return count


def document(tokenizer: Tokenizer, prompt: str | None, completion: str) -> Document:
    (only,) = tokenize([Example(7, prompt, completion)], PATH, tokenizer, CONFIG, {})
    assert only.number == 7 and only.tokens.dtype == np.int32
    return only


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Two cats and", " three dogs"),
        ("How many animals went home?", "\nTwo cats"),
        ("안녕하세요,", " 세계!"),
    ],
)
def test_a_prompt_is_what_generation_is_given_and_the_rest_is_learnt(
    name: str, prompt: str, completion: str
) -> None:
    tokenizer = TOKENIZERS[name]
    made = document(tokenizer, prompt, completion)
    assert made.tokens[: given(made)].tolist() == tokenizer.encode(prompt).ids
    # No space comes in where they meet, as a completion by itself would begin with.
    assert tokenizer.decode(made.tokens[:-1].tolist()) == prompt + completion
    assert made.tokens[-1] == 1 and made.learnt == len(made.tokens) - given(made)


def test_a_word_across_the_boundary_does_not_alter_the_prompt() -> None:
    tokenizer = TOKENIZERS["byte level"]
    whole = tokenizer.encode("Two cats and three dogs").ids
    prompt = tokenizer.encode("Two cats and thre").ids
    assert whole[: len(prompt)] != prompt  # else this tests nothing
    made = document(tokenizer, "Two cats and thre", "e dogs")
    assert made.tokens[: given(made)].tolist() == prompt
    assert tokenizer.decode(made.tokens[:-1].tolist()) == "Two cats and three dogs"


def test_a_plain_text_is_learnt_from_its_second_token_on() -> None:
    tokenizer = TOKENIZERS["byte level"]
    made = document(tokenizer, None, "Two cats")
    assert made.tokens.tolist() == [*tokenizer.encode("Two cats").ids, 1]
    assert given(made) == 0 and made.learnt == len(made.tokens) - 1


def test_a_text_that_ends_with_the_eos_token_has_it_once() -> None:
    made = document(TOKENIZERS["byte level"], None, f"Two cats{EOS}")
    assert (
        made.tokens.tolist() == document(TOKENIZERS["byte level"], None, "Two cats").tokens.tolist()
    )


def test_an_empty_prompt_is_the_bos_token_as_in_generation() -> None:
    tokenizer = TOKENIZERS["byte level"]
    made = document(tokenizer, "", "Two cats")
    assert made.tokens.tolist() == [0, *tokenizer.encode("Two cats").ids, 1] and given(made) == 1
    without = dataclasses.replace(CONFIG, bos_token_id=None)
    with pytest.raises(InputError, match="^data.jsonl, line 7: the prompt is empty"):
        tokenize([Example(7, "", "Two cats")], PATH, tokenizer, without, {})


def test_special_tokens_that_the_tokenizer_adds_are_those_of_the_prompt() -> None:
    tokenizer = byte_level()
    around = [(BOS, 0), (EOS, 1)]
    tokenizer.post_processor = TemplateProcessing(f"{BOS} $A", special_tokens=around)
    made = document(tokenizer, "Two cats", " and three")
    assert made.tokens.tolist() == [*tokenizer.encode("Two cats and three").ids, 1]
    tokenizer.post_processor = TemplateProcessing(f"{BOS} $A {EOS}", special_tokens=around)
    made = document(tokenizer, "Two cats", " and three")
    assert made.tokens[: given(made)].tolist() == tokenizer.encode("Two cats").ids
    assert (made.tokens[given(made) :] == 1).sum() == 1  # the end alone


def test_the_end_is_that_of_generation() -> None:
    example, tokenizer = Example(7, "Two", " cats"), TOKENIZERS["byte level"]
    ends = []
    for eos, defaults in [((3, 4), {}), (3, {"eos_token_id": [5, 6]}), (None, {})]:
        config = dataclasses.replace(CONFIG, eos_token_id=eos)
        ends.append(int(tokenize([example], PATH, tokenizer, config, defaults)[0].tokens[-1]))
    assert ends == [3, 5, tokenizer.encode("Two cats").ids[-1]]


def test_ids_that_the_model_has_not_are_refused() -> None:
    config = dataclasses.replace(CONFIG, vocab_size=40)
    with pytest.raises(
        InputError, match=r"^data.jsonl, line 7: token id \d+ is not in .* vocabulary of 40"
    ):
        tokenize([Example(7, None, "고양이")], PATH, TOKENIZERS["byte level"], config, {})
