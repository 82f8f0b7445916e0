"""Files of prompts are read line by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.text.files import read_prompts

SHARED = GenerationOptions(temperature=0.5, seed=3)


def test_every_line_of_a_text_file_is_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("first\r\n안녕 \u2028 {}\n\n last ".encode())
    prompts = ["first", "안녕 \u2028 {}", "", " last "]
    assert read_prompts(path, SHARED) == [(prompt, SHARED) for prompt in prompts]
    path.write_text("\ufeffone\n", "utf-8")  # as some editors save UTF-8
    assert read_prompts(path, SHARED) == [("one", SHARED)]


def test_a_line_of_jsonl_may_set_options_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "a"}, {"prompt": "b\n", "top_k": 3, "seed": 9}, {"prompt": ""}]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert read_prompts(path, SHARED) == [
        ("a", SHARED),
        ("b\n", GenerationOptions(temperature=0.5, top_k=3, seed=9)),
        ("", SHARED),
    ]


def test_a_line_may_have_messages_in_place_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q", "name": None}]
    path.write_text(json.dumps({"messages": messages, "seed": 9}))
    ((prompt, options),) = read_prompts(path, SHARED)
    assert prompt == [messages[0], {"role": "user", "content": "Q"}]
    assert options == GenerationOptions(temperature=0.5, seed=9)


def test_lists_and_biases_of_a_line_are_options(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    line: dict[str, Any] = {"bad_words": ["x", [1, 2]], "stop": ["y"], "logit_bias": {"3": 1.5}}
    line |= {"exponential_decay_length_penalty": [5, 1.2]}
    path.write_text(json.dumps({"prompt": "a", **line, "suppress_tokens": [4]}))
    ((_, options),) = read_prompts(path, SHARED)
    assert (options.bad_words, options.stop) == (("x", (1, 2)), ("y",))
    assert options.resolve({}).sequence_bias == (((3,), 1.5),)
    assert (options.suppress_tokens, options.seed) == ((4,), 3)
    assert options.resolve({}).exponential_decay_length_penalty == (5, 1.2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not valid JSON"),
        ('"text"', "is not a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", 'needs a "prompt" with a text'),
        ('{"prompt": 3}', 'needs a "prompt" with a text'),
        ('{"prompt": "a", "messages": []}', 'has both "prompt" and "messages"'),
        ('{"messages": []}', "messages is empty"),
        ('{"messages": {"role": "user"}}', "messages must be a list"),
        ('{"messages": [{"role": "user"}]}', "message 1: content must be a text, not None"),
        ('{"messages": [{"content": "a"}]}', "message 1: role must be one of system, user, "),
        ('{"prompt": "a", "top_q": 1}', "unknown option top_q; did you mean top_p?"),
        (
            '{"prompt": "a", "zzzzzz": 1}',
            "unknown option zzzzzz; there are max_new_tokens, min",
        ),
        ('{"prompt": "a", "bad_words": [[]]}', "bad_words: () is empty"),
        ('{"prompt": "a", "stop": [""]}', "stop: '' is empty"),
        ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias: 'x' is not a token id"),
        ('{"prompt": "a", "top_k": -1}', "top_k must be a whole number of at least 0, not -1"),
        (
            '{"prompt": "a", "exponential_decay_length_penalty": [-1, 1.2]}',
            "the first of exponential_decay_length_penalty must be a whole number of at least 0",
        ),
        ('{"prompt": "a", "temperature": NaN}', "temperature must be a number of at least 0"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n\n{line}\n')
    with pytest.raises(InputError) as raised:
        read_prompts(path, SHARED)
    assert str(raised.value).startswith(f"{path}, line 3: {message}")


def test_a_file_without_prompts_or_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(path, SHARED)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="line 1: is not UTF-8: "):
        read_prompts(path, SHARED)
    with pytest.raises(InputError, match="cannot be read: .*No such file"):
        read_prompts(tmp_path / "absent.txt", SHARED)
