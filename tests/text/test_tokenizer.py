"""Text comes out of tokens piece by piece, whole characters at a time, and nothing is lost."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from neox_eqx.errors import InputError
from neox_eqx.text.tokenizer import Detokenizer, load_tokenizer
from tests.text.checkpoints import BOS, EOS, byte_level, metaspace

BYTE_LEVEL, METASPACE = byte_level(), metaspace()
TEXTS = (
    "뛟 한국어와 쀍 뒤섞인 글",
    "日本語と漢字、カタカナ。",
    "👍🏽 and 👩‍👩‍👧‍👦, then 🇰🇷🇯🇵",
    "plain words, and two  spaces\n\nand lines",
    "a literal \ufffd inside, and at the end \ufffd",
    " a space at the start",
)
REPLACEMENT = "\ufffd"


def pieces(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> list[str]:
    """What each token in turn completes, then what the end adds."""
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.add([token]) for token in tokens), detokenizer.end()]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte-level", "metaspace"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_from_any_cut_of_it(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text).ids
    whole = tokenizer.decode(ids)
    cuts = [cut for cut in range(1, len(ids)) if not tokenizer.decode(ids[:cut]).endswith("\ufffd")]
    assert len(cuts) > 4
    for cut in cuts:
        prompt, tokens = ids[:cut], ids[cut:]
        grown = pieces(tokenizer, prompt, tokens)
        assert "".join(grown) == whole[len(tokenizer.decode(prompt)) :]
        together = Detokenizer(tokenizer, prompt)
        assert together.add(tokens) + together.end() == "".join(grown)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte-level", "metaspace"])
@pytest.mark.parametrize("text", TEXTS[:3])
def test_no_piece_holds_a_part_of_a_character(text: str, tokenizer: Tokenizer) -> None:
    prompt, tokens = tokenizer.encode("cats").ids, tokenizer.encode(text).ids
    grown = pieces(tokenizer, prompt, tokens)
    assert REPLACEMENT not in "".join(grown)
    # Control: decoded token by token, the same text is full of replacement characters.
    assert REPLACEMENT in "".join(tokenizer.decode([token]) for token in tokens)


def test_text_comes_as_soon_as_its_character_is_whole() -> None:
    tokens = BYTE_LEVEL.encode("a뛟b").ids
    assert pieces(BYTE_LEVEL, [], tokens) == ["a", "", "", "뛟", "b", ""]


def test_bytes_that_end_inside_a_character_show_as_a_replacement() -> None:
    tokens = BYTE_LEVEL.encode("a뛟").ids[:-1]
    assert pieces(BYTE_LEVEL, [], tokens) == ["a", "", "", REPLACEMENT]


def test_bytes_that_are_no_character_do_not_hold_up_what_follows() -> None:
    broken = BYTE_LEVEL.encode("뛟").ids[:2]
    grown = pieces(BYTE_LEVEL, [], [*broken, *BYTE_LEVEL.encode("ok").ids])
    assert "".join(grown) == BYTE_LEVEL.decode(broken) + "ok"
    assert grown[-1] == ""


def test_random_tokens_come_out_as_they_decode_together() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        ids = random.integers(0, BYTE_LEVEL.get_vocab_size(), 30).tolist()
        assert "".join(pieces(BYTE_LEVEL, [], ids)) == BYTE_LEVEL.decode(ids)


def test_a_space_before_the_first_generated_word_is_kept() -> None:
    prompt, tokens = METASPACE.encode("Two").ids, METASPACE.encode("cats and").ids
    assert METASPACE.decode(tokens) == "cats and"
    assert "".join(pieces(METASPACE, prompt, tokens)) == " cats and"


def test_special_tokens_have_no_text() -> None:
    bos, eos = (BYTE_LEVEL.token_to_id(token) for token in (BOS, EOS))
    word = BYTE_LEVEL.encode(" cats").ids
    assert "".join(pieces(BYTE_LEVEL, [bos], [*word, eos])) == " cats"


def test_padding_and_truncation_in_the_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "Two cats and three dogs"
    assert load_tokenizer(tmp_path).encode(text).ids == BYTE_LEVEL.encode(text).ids


def test_a_missing_or_broken_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer \(no tokenizer.json, .*--tokenizer DIR"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: is not a tokenizer: "):
        load_tokenizer(tmp_path)
