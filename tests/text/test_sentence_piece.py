"""A directory with a SentencePiece model alone gives SentencePiece's own ids and texts."""

import io
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from neox_eqx import GenerationOptions, TextGenerator
from neox_eqx.convert.source import find_companions
from neox_eqx.errors import InputError
from neox_eqx.text.tokenizer import Detokenizer, load_tokenizer
from neox_eqx.text.words import token_bytes
from tests.hf_models import config_json, hf_model
from tests.text.checkpoints import SENTENCES, byte_level
from tests.text.drawn import draw_text

RINNA = {
    "tokenizer_class": "T5Tokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "sep_token": "[SEP]",
    "extra_ids": 0,
    "additional_special_tokens": [],
    "sp_model_kwargs": {},
}
"""What rinna's and LINE's tokenizer_config.json hold."""

SETTINGS: dict[str, dict[str, Any]] = {
    "as rinna's": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "dummy prefix": {"remove_extra_whitespaces": False},
    "defaults": {"normalization_rule_name": "nmt_nfkc"},
    "no bytes": {"byte_fallback": False, "add_dummy_prefix": False},
    "BPE": {"model_type": "bpe"},
}


def train(**settings: Any) -> bytes:
    """A small SentencePiece model."""
    model = io.BytesIO()
    usual = dict(byte_fallback=True, normalization_rule_name="identity", vocab_size=400)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        user_defined_symbols=["[SEP]", "<NL>"],
        hard_vocab_limit=False,
        minloglevel=2,
        **(usual | settings),
    )
    return model.getvalue()


@pytest.fixture(scope="module", params=SETTINGS)
def model(request: pytest.FixtureRequest) -> bytes:
    return train(**SETTINGS[request.param])


@pytest.fixture(scope="module")
def rinna_model() -> bytes:
    return train(**SETTINGS["as rinna's"])


def directory(path: Path, model: bytes, options: dict[str, Any] | None = None) -> Path:
    (path / "spiece.model").write_bytes(model)
    if options is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(options))
    return path


def plain_texts(number: int) -> list[str]:
    """Texts in six languages without special tokens."""
    draw = random.Random(0)
    return ["", " ", "\n", "  two  spaces ", *(draw_text(draw, ()) for _ in range(number))]


def test_ids_and_texts_are_sentencepieces(model: bytes, tmp_path: Path) -> None:
    ours = load_tokenizer(directory(tmp_path, model, RINNA))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in plain_texts(60):
        ids = theirs.encode(text)
        assert ours.encode(text).ids == ids
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids) == ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    assert ours.get_vocab() == {theirs.id_to_piece(id): id for id in range(len(theirs))}


def test_pieces_of_the_stream_join_to_the_whole(model: bytes, tmp_path: Path) -> None:
    ours = load_tokenizer(directory(tmp_path, model, RINNA))
    draw = random.Random(0)
    rows = [ours.encode(text).ids for text in plain_texts(16)]
    rows += [[draw.randrange(len(ours.get_vocab())) for _ in range(20)] for _ in range(20)]
    for ids in rows:
        grown = Detokenizer(ours, [])
        assert "".join([*(grown.add([id]) for id in ids), grown.end()]) == ours.decode(ids)


def test_what_streams_after_a_prompt_joins_to_the_whole(model: bytes, tmp_path: Path) -> None:
    ours = load_tokenizer(directory(tmp_path, model, RINNA))
    draw = random.Random(1)
    for _ in range(6):
        ids = ours.encode(draw_text(draw, ("</s>", "[SEP]", "<NL>"))).ids
        cuts = [cut for cut in range(1, len(ids)) if not ours.decode(ids[:cut]).endswith("\ufffd")]
        for cut in cuts[::3]:
            grown = Detokenizer(ours, ids[:cut])
            text = "".join([*(grown.add([id]) for id in ids[cut:]), grown.end()])
            assert text == ours.decode(ids)[len(ours.decode(ids[:cut])) :]


def test_each_token_spells_its_bytes(model: bytes, tmp_path: Path) -> None:
    ours = load_tokenizer(directory(tmp_path, model))
    spelled = token_bytes(ours)
    for text in ("안녕 world 👍🏽", "日本語の 文章", "a뛟b"):
        ids = ours.encode(f"a{text}").ids
        if 0 not in ids:  # The unknown token, where there are no bytes to fall back to.
            assert b"".join(spelled[id] or b"" for id in ids).decode().strip() == f"a{text}"


def test_a_checkpoint_with_such_a_model_generates_and_stops_as_in_transformers(
    rinna_model: bytes, tmp_path: Path
) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=rinna_model)
    theirs = hf_model(config_json(32, 2, vocab_size=len(pieces), bos_token_id=1, eos_token_id=2))
    theirs.generation_config.pad_token_id = 3
    theirs.save_pretrained(tmp_path)
    prompt, length = "日本の文章 ", 12
    tokens = torch.tensor([pieces.encode(prompt)])
    row = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=length)[0]
    text = pieces.decode(row.tolist()).removeprefix(prompt)
    stop = next(character for character in text[3:] if character.isalpha())
    options = [GenerationOptions(max_new_tokens=length, stop=stops) for stops in ((), (stop,))]
    generator = TextGenerator.load(directory(tmp_path, rinna_model, RINNA))
    whole, ended = generator.generate([prompt, prompt], options)
    assert [*whole.prompt_tokens, *whole.tokens] == row.tolist()
    assert whole.text == text
    assert ended.finish_reason == "stop"
    assert stop in ended.text and text.startswith(ended.text) and len(ended.text) < len(text)
    assert tmp_path / "spiece.model" in find_companions(tmp_path)


def test_a_special_token_in_the_text_is_one_id_and_splits_it(
    rinna_model: bytes, tmp_path: Path
) -> None:
    ours = load_tokenizer(directory(tmp_path, rinna_model, RINNA))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=rinna_model)
    text = "Two cats</s> went [SEP] home<NL>日本<s>"
    special = (2, theirs.piece_to_id("[SEP]"), 1)
    stretches = map(theirs.encode, ("Two cats", " went ", " home<NL>日本"))
    expected = [id for pair in zip(stretches, special, strict=True) for id in (*pair[0], pair[1])]
    assert ours.encode(text).ids == expected
    assert ours.decode(expected, skip_special_tokens=False) == text
    assert ours.decode(expected) == "Two cats went  home<NL>日本"
    # Where no file names special tokens, SentencePiece spells them.
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).encode("a</s>").ids == theirs.encode("a</s>")


def test_tokens_that_the_model_lacks_come_after_its_own(rinna_model: bytes, tmp_path: Path) -> None:
    size = sentencepiece.SentencePieceProcessor(model_proto=rinna_model).get_piece_size()
    options = {**RINNA, "additional_special_tokens": ["<|user|>"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": size + 4}))
    ours = load_tokenizer(directory(tmp_path, rinna_model, options))
    assert ours.encode("<|user|><|end|>").ids == [size + 5, size + 4]
    assert ours.decode([size + 5, size + 4, size + 3, 10**6]) == "<|end|>"
    assert (ours.token_to_id("<|end|>"), ours.token_to_id("</s>")) == (size + 4, 2)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": 7}))
    with pytest.raises(InputError, match=r"spiece.model: '<\|end\|>' has the id 7 in the files"):
        load_tokenizer(tmp_path)


def test_lower_case_is_applied_where_the_files_ask_for_it(
    rinna_model: bytes, tmp_path: Path
) -> None:
    ours = load_tokenizer(directory(tmp_path, rinna_model, {**RINNA, "do_lower_case": True}))
    plain = load_tokenizer(directory(tmp_path, rinna_model, RINNA))
    assert ours.encode("Two CATS[SEP]").ids == plain.encode("two cats[SEP]").ids


def test_the_model_holds_beside_what_t5_made_of_it(rinna_model: bytes, tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=rinna_model)
    text = "日本語の  文章"
    as_t5 = load_tokenizer(directory(tmp_path, rinna_model, RINNA))
    assert as_t5.encode(text).ids == theirs.encode(text)
    fast = directory(tmp_path, rinna_model, {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert load_tokenizer(fast).encode(text).ids == byte_level().encode(text).ids


def test_equal_models_and_settings_alone_are_equal(
    rinna_model: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = [RINNA, RINNA, {**RINNA, "eos_token": "[SEP]"}, {**RINNA, "do_lower_case": True}]
    first, second, *others = (
        load_tokenizer(directory(tmp_path_factory.mktemp("model"), rinna_model, each)).to_str()
        for each in options
    )
    assert first == second
    assert len({first, *others}) == 3


def test_without_the_package_the_message_says_how_to_get_it(
    rinna_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # Importing it fails.
    with pytest.raises(InputError, match=r"spiece.model: .*: pip install sentencepiece$"):
        load_tokenizer(directory(tmp_path, rinna_model, RINNA))


def test_a_model_without_an_unknown_token_has_no_piece_for_what_it_lacks(
    rinna_model: bytes, tmp_path: Path
) -> None:
    # The kind of the piece: 2 is the unknown token, and 3 a control symbol.
    kind = re.compile(rb"(<unk>\x15....\x18)\x02", re.DOTALL)
    broken = kind.sub(b"\\1\x03", rinna_model)
    assert sentencepiece.SentencePieceProcessor(model_proto=broken).piece_to_id("no piece") == -1
    tokenizer = load_tokenizer(directory(tmp_path, broken, RINNA))
    assert tokenizer.token_to_id("no piece") is None


def test_a_model_with_a_piece_that_is_no_utf_8_is_an_input_error(
    rinna_model: bytes, tmp_path: Path
) -> None:
    path = directory(tmp_path, rinna_model.replace(b"[SEP]", b"[S\xebP]"), RINNA)
    with pytest.raises(InputError, match=r"spiece.model: is not a SentencePiece model: .*utf-8"):
        load_tokenizer(path)


def test_a_broken_model_and_several_of_them_are_input_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.model").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"a.model: is not a SentencePiece model: "):
        load_tokenizer(tmp_path)
    (tmp_path / "a.model").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.model: is not a SentencePiece model: it is empty"):
        load_tokenizer(tmp_path)
    assert not capfd.readouterr().err  # where SentencePiece would complain
    (tmp_path / "b.model").write_bytes(b"")
    with pytest.raises(InputError, match=r"has several vocabularies, a.model, b.model"):
        load_tokenizer(tmp_path)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("cats").ids == byte_level().encode("cats").ids
