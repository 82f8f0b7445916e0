"""Conversations as documents: a template's text, of which what the assistant says is learnt."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.text.template import ChatTemplate, load_template
from neox_eqx.training.data.documents import Document, tokenize
from neox_eqx.training.data.examples import Example
from tests.text.checkpoints import BOS, EOS, byte_level

CONFIG = GPTNeoXConfig(vocab_size=400, bos_token_id=0, eos_token_id=1)

ASSISTANT = "{% for m in messages %}{% if m.role == 'assistant' %}"
OTHERS = "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
ASKED = "{% if add_generation_prompt %}assistant:{% endif %}"
# What is learnt begins with a word's space, after a special token, or ends within a line. It ends
# with no character of several tokens, of which transformers leaves out all but the first.
MARKED = {
    "space": f"{ASSISTANT}assistant:{{% generation %}} {{{{ m.content }}}}{EOS}"
    f"{{% endgeneration %}}{OTHERS}{ASKED}",
    "special": f"{ASSISTANT}assistant:{BOS}{{% generation %}}{{{{ m.content }}}}{EOS}"
    f"{{% endgeneration %}}\n{OTHERS}{ASKED[:-11]}{BOS}{{% endif %}}",
    "within": f"{ASSISTANT}{{% generation %}}{{{{ m.content }}}}!{{% endgeneration %}}, three\n"
    f"{OTHERS}",
}


def template(directory: Path, source: str | None, name: str | None = None) -> ChatTemplate:
    fields: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS}
    if source:
        fields["chat_template"] = source
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
    return load_template(directory, name)


def said(*contents: str, first: str = "user") -> tuple[dict[str, str], ...]:
    roles = {"system": ["system"], "user": []}[first] + ["user", "assistant"] * len(contents)
    return tuple({"role": r, "content": c} for r, c in zip(roles, contents, strict=False))


CONVERSATIONS = [
    said("Two cats?", "three dogs."),
    said("Two cats?", "three\n\ndogs", " 안녕하세요 ", "세계! 👍🏽", "home?", "  "),
    said("Write.", "Two cats?", "three dogs.", "How many?", "four", first="system"),
    said("Two cats?", "three dogs.", "And now?"),
]


def document(
    written: ChatTemplate, messages: tuple[dict[str, str], ...], tokenizer: Tokenizer
) -> Document:
    example = Example(7, None, "", messages=messages)
    (made,) = tokenize([example], Path("a.jsonl"), tokenizer, CONFIG, {}, written)
    return made


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_what_generation_marks_enclose_is_learnt_and_nothing_else(
    tmp_path: Path, name: str, messages: tuple[dict[str, str], ...]
) -> None:
    tokenizer, source = byte_level(), MARKED[name]
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    expected = theirs.apply_chat_template(
        list(messages), chat_template=source, return_dict=True, return_assistant_tokens_mask=True
    )
    made = document(template(tmp_path, source), messages, tokenizer)
    assert made.tokens.tolist() == expected["input_ids"]
    assert made.is_learnt.astype(int).tolist() == expected["assistant_masks"]
    assert 0 < made.learnt < len(made.tokens) - 1


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        *itertools.product(["alpaca", "space", "special"], CONVERSATIONS),
        *itertools.product(["koalpaca", "redpajama", "oasst"], [CONVERSATIONS[1]]),
    ],
)
def test_the_prompt_of_every_turn_has_the_tokens_that_generation_gives(
    tmp_path: Path, name: str, messages: tuple[dict[str, str], ...]
) -> None:
    tokenizer = byte_level()
    written = template(tmp_path, MARKED.get(name), None if name in MARKED else name)
    made = document(written, messages, tokenizer)
    ends = [n for n in range(1, len(made.tokens)) if made.is_learnt[n] > made.is_learnt[n - 1]]
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(ends) == len(turns)
    for end, turn in zip(ends, turns, strict=True):
        asked = written.render(messages[:turn])
        given = tokenizer.encode(asked, add_special_tokens=written.add_special_tokens).ids
        assert made.tokens[:end].tolist() == given
    text = tokenizer.decode(made.tokens.tolist(), skip_special_tokens=False)
    assert text == "".join(piece for piece, _ in written.render_learnt(messages))


def test_a_template_of_the_models_own_has_all_special_tokens_and_a_named_one_the_tokenizers(
    tmp_path: Path,
) -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, 0)])
    messages = CONVERSATIONS[0]
    own = document(template(tmp_path, MARKED["space"]), messages, tokenizer)
    assert 0 not in own.tokens
    named = document(template(tmp_path, None, "alpaca"), messages, tokenizer)
    assert named.tokens[0] == 0 and 0 not in named.tokens[1:]


def test_an_instruction_is_learnt_with_the_end_that_its_template_gives(tmp_path: Path) -> None:
    tokenizer = byte_level()
    asked = {"role": "user", "content": "How many?", "context": "Two cats"}
    messages = (asked, {"role": "assistant", "content": "three"})
    made = document(template(tmp_path, None, "alpaca"), messages, tokenizer)
    prompt = (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHow many?\n\n### Input:\nTwo cats\n\n### Response:"
    )
    learnt = tokenizer.encode(f"three{EOS}").ids
    assert made.tokens.tolist() == tokenizer.encode(prompt).ids + learnt
    assert made.tokens[made.is_learnt].tolist() == learnt


def test_where_a_token_reaches_over_the_boundary_the_prompt_stays_as_generation_has_it(
    tmp_path: Path,
) -> None:
    tokenizer = byte_level()
    before, after = "Two cats and thre", "e dogs"
    whole, prompt = (tokenizer.encode(text).ids for text in (before + after, before))
    assert whole[: len(prompt)] != prompt  # else this tests nothing
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    made = document(template(tmp_path, bare), said(before, after), tokenizer)
    assert made.tokens[~made.is_learnt].tolist() == prompt
    assert tokenizer.decode(made.tokens.tolist()) == "Two cats and three dogs"


def test_a_conversation_that_its_template_refuses_is_named(tmp_path: Path) -> None:
    written = template(tmp_path, None, "alpaca")
    with pytest.raises(InputError, match="^a.jsonl, line 7: template alpaca: .* take turns"):
        document(written, said("a", "b")[::-1], byte_level())
    small = dataclasses.replace(CONFIG, vocab_size=40)
    example = Example(3, None, "", messages=said("a", "고양이"), unit="row")
    with pytest.raises(InputError, match="^a.parquet, row 3: token id"):
        tokenize([example], Path("a.parquet"), byte_level(), small, {}, written)


def test_an_end_that_is_no_token_is_refused_where_the_template_has_one(tmp_path: Path) -> None:
    for eos in ("<|endoftext|>", ""):
        written = dataclasses.replace(template(tmp_path, None, "alpaca"), eos=eos)
        with pytest.raises(InputError, match="alpaca: ends what is said with .* eos_token in"):
            document(written, said("a", "b"), byte_level())
    written = dataclasses.replace(template(tmp_path, None, "dolly"), eos="")
    assert document(written, said("a", "b"), byte_level()).learnt
