"""The tokenizer that an EleutherAI run used goes with its weights, and the result generates."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from neox_eqx import GenerationOptions, TextGenerator
from neox_eqx.checkpoint.origin import TextOriginOptions
from neox_eqx.convert.certificate import CERTIFICATE
from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.convert.read import read_source
from neox_eqx.text.tokenizer import load_tokenizer
from tests.convert.neox_checkpoints import STEP, neox
from tests.convert.neox_reading import refusal
from tests.hf_models import config_json, hf_model

EOS = "<|endoftext|>"
TEXT = "Two cats, 고양이 둘"
MODEL = hf_model(config_json(32, 4, rotary_pct=0.25, vocab_size=320))


def tokenizer(eos: int) -> Tokenizer:
    """Byte-level as GPT-NeoX-20B's, the end of a text at this id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)} | {EOS: eos}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOS])
    return made


def checkpoint(root: Path, layout: str = "pipeline", **settings: str) -> Path:
    run = neox(MODEL)
    run.settings |= settings
    return run.write(root, layout)


@pytest.mark.parametrize("told", ["./20B_tokenizer.json", "/mnt/ssd/20B_tokenizer.json"])
@pytest.mark.parametrize("where", [STEP, ".", ".."])
@pytest.mark.parametrize(("layout", "to"), [("pipeline", "hf"), ("sequential", "native")])
def test_the_vocab_file_of_the_settings_becomes_tokenizer_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, to: str, where: str, told: str
) -> None:
    (tmp_path / "run").mkdir()
    root = checkpoint(tmp_path / "run" / "checkpoints", layout, **{"vocab-file": told})
    named = root / where / "20B_tokenizer.json"
    tokenizer(300).save(str(named))
    monkeypatch.chdir(tmp_path / "run")
    certificate = convert("checkpoints", "result", to=to, verify=False)
    assert Path("result/tokenizer.json").read_bytes() == named.read_bytes()
    assert "tokenizer.json" in certificate["result"]["files"]
    name = {STEP: f"{STEP}/{named.name}", ".": named.name, "..": f"../{named.name}"}[where]
    source = certificate["source"]["files"][name]
    assert source == certificate["result"]["files"]["tokenizer.json"]
    assert check(Path("result"))
    assert read_source("result").config_json["eos_token_id"] == 300


def test_a_result_generates_and_ends_where_the_run_ended_its_texts(tmp_path: Path) -> None:
    root = checkpoint(tmp_path / "x", vocab_file="20B_tokenizer.json")
    tokenizer(300).save(str(root / "20B_tokenizer.json"))
    convert(root, tmp_path / "again", to="neox", verify=False)
    convert(tmp_path / "again", tmp_path / "hf", to="hf", verify=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.decode(theirs(TEXT).input_ids) == TEXT
    generator = TextGenerator.load(tmp_path / "hf")
    assert generator.model.config.eos_token_id == 300
    (completion,) = generator.generate([TEXT], GenerationOptions(max_new_tokens=3))
    assert list(completion.prompt_tokens) == theirs(TEXT).input_ids


def test_the_vocab_file_goes_before_another_tokenizer_json_and_says_so(tmp_path: Path) -> None:
    root = checkpoint(tmp_path / "x", vocab_file="mine.json")
    tokenizer(300).save(str(root / "mine.json"))
    tokenizer(301).save(str(root / "tokenizer.json"))
    with pytest.warns(UserWarning, match=r"x/tokenizer\.json: is left out; .* name mine\.json"):
        convert(root, tmp_path / "hf", to="hf", verify=False)
    assert (tmp_path / "hf/tokenizer.json").read_bytes() == (root / "mine.json").read_bytes()
    assert read_source(tmp_path / "hf").config_json["eos_token_id"] == 300
    (root / "tokenizer.json").write_bytes((root / "mine.json").read_bytes())
    assert read_source(root).companions == {"tokenizer.json": root / "mine.json"}  # without a word


def gpt2(root: Path) -> None:
    """The two files that GPT-2 has; one of its tokens is "model"."""
    vocabulary = tokenizer(300).get_vocab() | {"model": 301}
    (root / "gpt2-vocab.json").write_text(json.dumps(vocabulary))
    (root / "gpt2-merges.txt").write_text("#version: 0.2\n")


def pieces(root: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_writer=model,
        byte_fallback=True,
        vocab_size=300,
        user_defined_symbols=[EOS],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (root / "run.model").write_bytes(model.getvalue())


GPT2 = {"vocab_file": "/data/gpt2-vocab.json", "merge_file": "/data/gpt2-merges.txt"}
PIECES = {"vocab_file": "/data/run.model", "tokenizer_type": "SPMTokenizer"}
KINDS = [(GPT2, gpt2, {"vocab.json", "merges.txt"}), (PIECES, pieces, {"run.model"})]


@pytest.mark.parametrize(("settings", "write", "names"), KINDS, ids=["gpt2", "pieces"])
def test_other_kinds_go_along_unless_there_is_a_tokenizer_json(
    tmp_path: Path, settings: dict[str, str], write: Callable[[Path], None], names: set[str]
) -> None:
    root = checkpoint(tmp_path / "x", **settings)
    write(root)
    convert(root, tmp_path / "hf", to="hf", verify=False)
    written = {path.name for path in (tmp_path / "hf").iterdir()}
    assert written == {"config.json", "model.safetensors", CERTIFICATE, *names}
    ours = load_tokenizer(tmp_path / "hf")
    assert ours.decode(ours.encode(TEXT).ids) == TEXT
    assert read_source(tmp_path / "hf").config_json["eos_token_id"] == ours.token_to_id(EOS)
    tokenizer(302).save(str(root / "tokenizer.json"))
    found = read_source(root)
    assert found.config_json["eos_token_id"] == 302
    assert found.companions["tokenizer.json"] == root / "tokenizer.json"


def test_gpt_2s_vocabulary_without_its_merges_tells_the_end_and_is_no_tokenizer(
    tmp_path: Path,
) -> None:
    root = checkpoint(tmp_path / "x", **GPT2)
    gpt2(root)
    (root / "gpt2-merges.txt").unlink()
    found = read_source(root)
    assert (found.companions, found.config_json["eos_token_id"]) == ({}, 300)


def test_a_vocab_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    root = checkpoint(tmp_path / "x", vocab_file="20B_tokenizer.json")
    message = r"run\.yml: its vocab_file '20B_tokenizer\.json' is not beside the checkpoint"
    with pytest.warns(UserWarning, match=message):
        assert read_source(root).companions == {}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tokenizer(300).save(str(elsewhere / "tokenizer.json"))
    certificate = convert(
        root,
        tmp_path / "hf",
        to="hf",
        origin=TextOriginOptions(tokenizer=str(elsewhere)),
        verify=False,
    )
    assert str(elsewhere / "tokenizer.json") in certificate["source"]["files"]
    assert read_source(tmp_path / "hf").config_json["eos_token_id"] == 300
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    "text",
    [
        *("[]", '{"model": {}}', '{"a": "b"}', '{"a": [1]}', '{"a": 1.5}', "{", "\x00"),
        *('{"a": Infinity}', '{"model": {"vocab": {"a": 1e999}}}', '{"a": "7"}'),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    root = checkpoint(tmp_path / "x", vocab_file="20B_tokenizer.json")
    (root / "20B_tokenizer.json").write_text(text)
    assert "20B_tokenizer.json: " in refusal(root)
