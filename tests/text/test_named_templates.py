"""The prompts of models without a chat template, as their makers write them."""

import json
from pathlib import Path

import pytest

from neox_eqx import InputError
from neox_eqx.text.messages import check_messages
from neox_eqx.text.template import load_template
from neox_eqx.text.template_names import NAMED_TEMPLATES
from tests.text.checkpoints import EOS, byte_level

INTRO = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
INTRO_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
KOREAN = "아래는 작업을 설명하는 명령어입니다."
# Of each: a question's prompt, with an input, and what stands between it and a second question's.
DOCUMENTED = {
    "dolly": (
        f"{INTRO}\n\n### Instruction:\nQ\n\n### Response:\n",
        f"{INTRO}\n\n### Instruction:\nQ\n\nInput:\nI\n\n### Response:\n",
        "A\n\n### End¦\n\n### Instruction:\nR\n\n### Response:\n",
    ),
    "kullm": (
        f"{KOREAN} 요청을 적절히 완료하는 응답을 작성하세요.\n\n### 명령어:\nQ\n\n### 응답:\n",
        "아래는 작업을 설명하는 명령어와 추가 컨텍스트를 제공하는 입력이 짝을 이루는 예제입니다. "
        "요청을 적절히 완료하는 응답을 작성하세요.\n\n"
        "### 명령어:\nQ\n\n### 입력:\nI\n\n### 응답:\n",
        "A</s>¦\n\n### 명령어:\nR\n\n### 응답:\n",
    ),
    "koalpaca": (
        "### 질문: Q\n\n### 답변:",
        "### 질문: Q\n\n### 맥락: I\n\n### 답변:",
        " A</s>¦\n\n### 질문: R\n\n### 답변:",
    ),
    "kogpt": (
        f"Below is an instruction that describes a task.\n{KOREAN}\n\n"
        "Write a response that appropriately completes the request.\n"
        "명령어에 따른 요청을 적절히 완료하는 응답을 작성하세요.\n\n"
        "### Instruction(명령어):\nQ\n\n### Response(응답):",
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context.\n아래는 작업을 설명하는 명령어와 추가적 맥락을 제공하는 입력이 짝을 이루는 "
        "예제입니다.\n\nWrite a response that appropriately completes the request.\n"
        "요청을 적절히 완료하는 응답을 작성하세요.\n\n"
        "### Instruction(명령어):\nQ\n\n### Input(입력):\nI\n\n### Response(응답):",
        "A</s>¦\n\n### Instruction(명령어):\nR\n\n### Response(응답):",
    ),
    "redpajama": (
        "<human>: Q\n<bot>:",
        "<human>: Q\n\nI\n<bot>:",
        " A\n<human>:¦ R\n<bot>:",
    ),
    "stablelm-tuned": (
        "<|SYSTEM|># StableLM Tuned (Alpha version)\n- StableLM is a helpful and harmless "
        "open-source AI language model developed by StabilityAI.\n- StableLM is excited to be able "
        "to help the user, but will refuse to do anything that could be considered harmful to the "
        "user.\n- StableLM is more than just an information source, StableLM is also able to write "
        "poetry, short stories, and make jokes.\n- StableLM will refuse to participate in anything "
        "that could harm a human.\n<|USER|>Q<|ASSISTANT|>",
        None,
        "A<|USER|>¦R<|ASSISTANT|>",
    ),
    "oasst": (
        "<|prompter|>Q</s><|assistant|>",
        "<|prompter|>Q\n\nI</s><|assistant|>",
        "A</s>¦<|prompter|>R</s><|assistant|>",
    ),
    "open-instruct": (
        "<|user|>\nQ\n<|assistant|>\n",
        "<|user|>\nQ\n\nI\n<|assistant|>\n",
        "A</s>¦\n<|user|>\nR\n<|assistant|>\n",
    ),
    "alpaca": (
        f"{INTRO}\n\n### Instruction:\nQ\n\n### Response:",
        f"{INTRO_WITH_INPUT}\n\n### Instruction:\nQ\n\n### Input:\nI\n\n### Response:",
        "A</s>¦\n\n### Instruction:\nR\n\n### Response:",
    ),
}
ASKED = [{"role": "user", "content": "Q"}]
TALK = [*ASKED, {"role": "assistant", "content": "A"}, {"role": "user", "content": "R"}]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a tokenizer without a chat template, as a model card's."""
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}))
    return tmp_path


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_prompt_is_as_documented(directory: Path, name: str) -> None:
    prompt, with_input, rest = DOCUMENTED[name]
    template = load_template(directory, name)
    assert template.render(ASKED) == prompt
    assert template.render(TALK) == prompt + rest.replace("¦", "")
    if with_input:
        assert template.render([ASKED[0] | {"context": "I"}]) == with_input


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_answer_and_what_ends_it_are_learnt(directory: Path, name: str) -> None:
    prompt, _, rest = DOCUMENTED[name]
    answer, between = rest.split("¦")
    pieces = load_template(directory, name).render_learnt(TALK)
    assert pieces == [(prompt, False), (answer, True), (between, False)]


def test_an_answer_ends_with_the_eos_token_that_the_tokenizer_has(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "gpt_neox", "eos_token_id": tokenizer.token_to_id(EOS)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_template(tmp_path, "alpaca").render_learnt(TALK)[1] == (f"A{EOS}", True)


def test_every_name_is_documented() -> None:
    assert [template.name for template in NAMED_TEMPLATES] == list(DOCUMENTED)


def test_words_in_braces_are_no_places_to_fill(directory: Path) -> None:
    template = load_template(directory, "alpaca")
    text = template.render([{"role": "user", "content": "{context} {0}", "context": "{user}"}])
    assert "### Instruction:\n{context} {0}\n\n### Input:\n{user}\n\n" in text


def test_a_systems_message_stands_where_the_prompt_has_one(directory: Path) -> None:
    said = [{"role": "system", "content": "Be short."}, *ASKED]
    assert load_template(directory, "dolly").render(said).startswith("Be short.\n\n### Instr")
    assert load_template(directory, "stablelm-tuned").render(said).startswith("<|SYSTEM|>Be short.")
    with pytest.raises(InputError, match="oasst: has no place for a system's message"):
        load_template(directory, "oasst").render(said)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([TALK[1]], "the user first, but after 0 of them comes one of assistant"),
        ([*ASKED, *ASKED], "but after 1 of them comes one of user"),
        (TALK[:2], "the last message must be the user's"),
        ([{"role": "system", "content": "S"}], "needs a message of the user's"),
    ],
)
def test_messages_out_of_turn_are_named(
    directory: Path, messages: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_template(directory, "dolly").render(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("Q", "messages must be a list"),
        ([{"role": "robot", "content": "Q"}], "message 1: role must be one of .* not 'robot'"),
        ([{"role": "user", "content": ["Q"]}], "message 1: content must be a text, not "),
        ([{"role": "user", "content": "\ud800"}], "message 1: content .* is not valid Unicode"),
        ([{"role": "user", "content": "Q", "x": object()}], "message 1: x must be made of texts"),
        ([*ASKED, {**ASKED[0], "x": [{"y": [object()]}]}], "message 2: x must be made of texts"),
        ([{"role": "user", "content": "Q", "x": {1: 2}}], "message 1: x must be made of texts"),
        ([7], "message 1: must be an object"),
    ],
)
def test_messages_that_are_none_are_named(messages: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_messages(messages)


def test_without_a_template_the_names_are_told(directory: Path) -> None:
    with pytest.raises(InputError, match="give --template NAME, one of dolly, kullm, koalpaca"):
        load_template(directory, None)
    with pytest.raises(InputError, match="there is no template 'x'; there are dolly, kullm"):
        load_template(directory, "x")
