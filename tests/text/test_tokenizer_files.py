"""The tokenizer of a directory is transformers' AutoTokenizer, whatever its files say."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer

from neox_eqx.convert.source import find_companions
from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.text.tokenizer import Detokenizer, load_tokenizer, prompt_tokens
from neox_eqx.text.words import token_bytes
from tests.text.checkpoints import BOS, EOS, byte_level, metaspace
from tests.text.drawn import KINDS, draw_directory, draw_text, metaspace_bpe, word_piece

BYTE_LEVEL = byte_level()
SIZE = BYTE_LEVEL.get_vocab_size()


def write(directory: Path, options: dict[str, Any], tokenizer: Tokenizer = BYTE_LEVEL) -> Path:
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(options))
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    return directory


def assert_equal(directory: Path, texts: list[str]) -> None:
    """Holds ids and texts to AutoTokenizer's, and what streams to the whole."""
    ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    assert ours.get_vocab() == theirs.get_vocab()
    for text in texts:
        ids = theirs(text).input_ids
        assert ours.encode(text).ids == ids, text
        bare = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False).ids == bare
        for skip in (True, False):
            whole = theirs.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids, skip_special_tokens=skip) == whole
        grown = Detokenizer(ours, [])
        assert "".join([*(grown.add([id]) for id in ids), grown.end()]) == ours.decode(ids)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_files_give_what_transformers_makes_of_them(
    kind: str, seed: int, tmp_path: Path
) -> None:
    make, classes = KINDS[kind]
    draw_directory(tmp_path, make(), classes[seed % len(classes)], seed)
    draw = random.Random(seed)
    assert_equal(tmp_path, [draw_text(draw) for _ in range(8)])


@pytest.mark.parametrize("name", ["GPTNeoXTokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("seed", range(4))
def test_vocab_and_merges_are_a_tokenizer(name: str, seed: int, tmp_path: Path) -> None:
    BYTE_LEVEL.model.save(str(tmp_path))
    draw = random.Random(seed)
    flags = ("add_bos_token", "add_eos_token", "add_prefix_space")
    options = {flag: draw.random() < 0.5 for flag in flags} | {"bos_token": BOS, "eos_token": EOS}
    write(tmp_path, {"tokenizer_class": name, **options})
    (tmp_path / "tokenizer.json").unlink()
    assert_equal(tmp_path, [draw_text(draw) for _ in range(6)])
    carried = {path.name for path in find_companions(tmp_path)}
    assert carried == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    write(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"and its class is 'PreTrainedTokenizer'; save it"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("template", [f"$A {EOS}", f"{BOS} $A"])
def test_gpt_neox_begins_and_ends_no_text_whatever_the_template_says(
    template: str, flags: dict[str, bool], tmp_path: Path
) -> None:
    tokenizer = byte_level()
    special = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    write(tmp_path, {"tokenizer_class": "GPTNeoXTokenizerFast", **flags}, tokenizer)
    assert load_tokenizer(tmp_path).encode("Two cats").ids == BYTE_LEVEL.encode("Two cats").ids
    assert_equal(tmp_path, ["Two cats"])
    # Control: a class that takes the whole file has the template.
    write(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast", **flags}, tokenizer)
    assert load_tokenizer(tmp_path).encode("Two cats").ids == tokenizer.encode("Two cats").ids
    assert_equal(tmp_path, ["Two cats"])


@pytest.mark.parametrize("legacy", [True, False, None])
def test_llamas_space_before_a_text_goes_by_its_flags(legacy: bool | None, tmp_path: Path) -> None:
    flags = {} if legacy is None else {"legacy": legacy}
    for space in ({}, {"add_prefix_space": None}, {"add_prefix_space": False}):
        write(tmp_path, {"tokenizer_class": "LlamaTokenizer", **flags, **space}, metaspace_bpe())
        assert_equal(tmp_path, ["cats", "<s>cats</s> cats</s>cats"])


def test_a_list_in_tokenizer_config_holds_against_special_tokens_map(tmp_path: Path) -> None:
    of_map = {"additional_special_tokens": ["<|of map|>"], "sep_token": "<|sep|>"}
    for own in ({}, {"additional_special_tokens": ["<|own|>"]}, {"extra_special_tokens": []}):
        write(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast", **own})
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(of_map))
        assert_equal(tmp_path, ["a<|of map|>b<|own|>c<|sep|>"])


def test_a_vocabulary_that_is_not_the_classs_kind_keeps_its_file(tmp_path: Path) -> None:
    tokenizer = metaspace()
    write(tmp_path, {"tokenizer_class": "GPTNeoXTokenizer"}, tokenizer)
    text = "日本語 and 👍🏽"
    assert load_tokenizer(tmp_path).encode(text).ids == tokenizer.encode(text).ids


def test_an_added_token_gets_the_next_id_and_a_gap_is_told(tmp_path: Path) -> None:
    added = {str(SIZE + 9): {"content": "<|user|>", "special": True}}
    write(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added})
    expected = (
        rf"'<\|user\|>' should have the id {SIZE + 9}, and gets .* {SIZE}, as in transformers"
    )
    with pytest.warns(UserWarning, match=expected):
        ours = load_tokenizer(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("a<|user|>").ids == theirs("a<|user|>").input_ids


def added(**tokens: str) -> dict[str, Any]:
    return {"added_tokens_decoder": {id[1:]: {"content": text} for id, text in tokens.items()}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (added(_7="<|user|>"), r"the id 7 of the added token '<\|user\|>' is also that of "),
        (added(_300="x", _301="x"), r"tokenizer_config.json: 'x' has two ids, 300 and 301"),
        (
            added(_300="x", _0300="y"),
            r"tokenizer_config.json: the id 300 of 'y' is also that of 'x'",
        ),
        (added(_seven="x"), r"an added token's id is 'seven', which is no number"),
        ({"added_tokens_decoder": {"-1": {"content": "x"}}}, r"id is '-1', which is no number"),
        (added(_2147483647="x"), r"the id 2147483647 of 'x' is not from 0 to 9999999"),
        ({"added_tokens_decoder": {"300": "x"}}, r"the token 'x' of the id 300 is no JSON object"),
        ({"added_tokens_decoder": {"300": {"content": 5}}}, r"\{'content': 5\} describes no token"),
        ({"added_tokens_decoder": ["x"]}, r"\['x'\] stands where a JSON object is expected"),
        ({"bos_token": 5}, r"5 stands where a JSON object is expected"),
        ({"additional_special_tokens": "x"}, r"the special tokens 'x' are not a list"),
        ({"add_prefix_space": "yes"}, r"add_prefix_space is 'yes', not true or false"),
        ({"tokenizer_class": 5}, r"tokenizer_class is 5, not a name"),
    ],
)
def test_what_the_files_say_wrong_is_an_input_error(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, options)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("id", [-1, 2**31 - 1, 10**30, 2.5, "7", None, True])
def test_an_id_in_added_tokens_json_that_cannot_be_is_an_input_error(
    id: Any, tmp_path: Path
) -> None:
    (write(tmp_path, {}) / "added_tokens.json").write_text(json.dumps({"x": id}))
    with pytest.raises(InputError, match=r"added_tokens.json: "):
        load_tokenizer(tmp_path)


def test_a_vocabulary_with_an_absurd_id_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = json.loads(BYTE_LEVEL.to_str())
    tokenizer["model"]["vocab"]["absurd"] = 2**31 - 1
    write(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        InputError, match=r"the token 'absurd' the id 2147483647, and ids are below"
    ):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"the tokenizer: gives the token 'absurd'"):
        token_bytes(Tokenizer.from_str(json.dumps(tokenizer)))


def test_a_text_that_the_tokenizer_breaks_down_over_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Replace(Regex(r"(a|aa)+$"), "x")
    options = {"tokenizer_class": "PreTrainedTokenizerFast"}
    broken = load_tokenizer(write(tmp_path, options, tokenizer))
    text = "a" * 60 + "b"
    with pytest.raises(InputError, match=r"breaks down over the prompt 'a{30}': Onig: "):
        prompt_tokens(broken, text, None)
    with pytest.raises(InputError, match=r"breaks down over the text 'a{30}': Onig: "):
        Chunk.tokenize(broken, [text])


def test_a_decoder_that_breaks_down_over_tokens_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = byte_level()
    replace = decoders.Replace(Regex(r"(a|aa)+$"), "x")
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), replace])
    options = {"tokenizer_class": "PreTrainedTokenizerFast"}
    broken = load_tokenizer(write(tmp_path, options, tokenizer))
    ids = prompt_tokens(broken, "a" * 60 + "b", None)
    with pytest.raises(InputError, match=r"breaks down over the text of tokens: Onig: "):
        Detokenizer(broken, []).add(ids)
    with pytest.raises(InputError, match=r"breaks down over the text of tokens: Onig: "):
        Chunk.of([ids]).texts(broken)


def test_a_tokenizer_that_breaks_down_over_its_added_tokens_is_an_input_error(
    tmp_path: Path,
) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Replace(Regex(r"(a|aa)+$"), "x")
    token = {"content": "a" * 60 + "b", "normalized": True}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {"3": token}}
    with pytest.raises(InputError, match=r"breaks down over its added tokens: Onig: "):
        load_tokenizer(write(tmp_path, options, tokenizer))


def test_a_token_that_only_looks_like_a_byte_is_its_own_letters() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<0xZZ>": 1, "<0xE9>": 2}))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert token_bytes(tokenizer)[1:] == (b"<0xZZ>", b"\xe9")


def test_word_pieces_spell_their_bytes() -> None:
    tokenizer = word_piece()
    spelled = token_bytes(tokenizer)
    assert spelled[tokenizer.token_to_id("cats")] == b" cats"
    assert spelled[tokenizer.token_to_id("##a")] == b"a"
    assert spelled[tokenizer.token_to_id("[SEP]")] == b" [SEP]"


def test_words_spell_their_bytes_where_other_texts_have_no_token() -> None:
    tokenizer = Tokenizer(models.WordLevel({"cats": 0, "dogs": 2}))
    assert token_bytes(tokenizer) == (b" cats", None, b" dogs")
