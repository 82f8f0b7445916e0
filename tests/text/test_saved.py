"""A generator that is saved is the same when it is loaded again, by us and by transformers."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from neox_eqx.errors import InputError
from neox_eqx.text.generator import TextGenerator

PROMPT = "Two cats and"


@pytest.fixture
def source(saved: tuple[Path, GPTNeoXForCausalLM], tmp_path: Path) -> Path:
    """With a template, and as of old with the settings of generation in config.json."""
    directory = Path(shutil.copytree(saved[0], tmp_path / "source"))
    (directory / "generation_config.json").unlink()
    config = json.loads((directory / "config.json").read_text())
    settings = {"max_new_tokens": 5, "repetition_penalty": 1.5}
    (directory / "config.json").write_text(json.dumps(config | settings))
    words = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(words))
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("RAG!")
    return directory


def test_the_same_texts_come_of_it_with_tokenizer_template_and_settings(
    source: Path, tmp_path: Path
) -> None:
    generator = TextGenerator.load(source)
    generator.save(tmp_path / "new")
    again = TextGenerator.load(tmp_path / "new")
    (expected,), (completion,) = generator.generate([PROMPT]), again.generate([PROMPT])
    assert len(expected.tokens) == 5
    assert completion == expected
    chat = [{"role": "user", "content": "Hi"}]
    assert again.generate([chat]) == generator.generate([chat])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    hf = GPTNeoXForCausalLM.from_pretrained(tmp_path / "new")
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = hf.generate(ids, do_sample=False)[0, ids.shape[1] :]
    assert theirs.tolist() == list(completion.tokens)
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "Hi!"
    assert tokenizer.apply_chat_template(chat, chat_template="rag", tokenize=False) == "RAG!"


def test_a_generator_that_was_not_loaded_has_no_tokenizer_to_save(
    generator: TextGenerator, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="has no files of a tokenizer to save; save its model with"
    ):
        dataclasses.replace(generator, companions=()).save(tmp_path / "new")
    assert not list(tmp_path.iterdir())
