"""Words that must not come are the tokens that would spell them."""

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from neox_eqx import GenerationOptions
from neox_eqx.errors import InputError
from neox_eqx.text.words import bad_word_ids, with_ids
from tests.text.checkpoints import BOS, byte_level, metaspace


@pytest.fixture(params=[byte_level, metaspace], ids=["byte-level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """One that puts a special token before a text, as an encoded prompt has it."""
    own = request.param()
    first = (BOS, own.token_to_id(BOS))
    own.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[first])
    return own


@pytest.mark.parametrize("word", ["cats", "뛟", "two  spaces", " a space"])
def test_a_bad_word_is_spelled_at_the_start_of_a_text_and_after_a_space(
    tokenizer: Tokenizer, word: str
) -> None:
    oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    expected = [oracle(text, add_special_tokens=False).input_ids for text in (word, f" {word}")]
    found = bad_word_ids(tokenizer, word)
    assert {tuple(ids) for ids in expected} == {*found}
    assert len(found) == len({*found}) and all(found)


def test_words_and_token_ids_may_stand_together(tokenizer: Tokenizer) -> None:
    options = GenerationOptions(bad_words=("cats", (5, 6), "뛟")).resolve({})
    cats, other = bad_word_ids(tokenizer, "cats"), bad_word_ids(tokenizer, "뛟")
    assert with_ids(options, tokenizer).bad_words == (*cats, (5, 6), *other)


def test_a_word_without_tokens_is_named() -> None:
    nothing = byte_level()
    nothing.normalizer = Replace(Regex("[0-9]"), "")
    with pytest.raises(InputError, match="^bad_words: the tokenizer makes nothing of '12'$"):
        bad_word_ids(nothing, "12")
