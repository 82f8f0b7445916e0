"""Reading of examples: three kinds, two forms of storage, and what is wrong with a line."""

import json
import re
from pathlib import Path

import datasets
import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.examples import Example, read_examples

QUESTIONS = [
    {"question": "How many legs do 2 cats have?", "answer": "2 x 4 = 8 legs.\n#### 8"},
    {"question": "고양이 두 마리의 다리는?", "answer": "여덟 개 👍🏽\n#### 8"},
]


def jsonl(directory: Path, rows: list[dict[str, str]]) -> Path:
    path = directory / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_an_answer_is_learnt_with_the_line_break_before_it(tmp_path: Path) -> None:
    first, second = read_examples(jsonl(tmp_path, QUESTIONS))
    assert first == Example(1, "How many legs do 2 cats have?", "\n2 x 4 = 8 legs.\n#### 8", True)
    assert second == Example(2, "고양이 두 마리의 다리는?", "\n여덟 개 👍🏽\n#### 8", True)


def test_a_completion_and_a_plain_text_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [{"prompt": "One two", "completion": " three "}, {"prompt": "", "completion": "One"}]
    expected = [Example(1, "One two", " three "), Example(2, "", "One")]
    assert read_examples(jsonl(tmp_path, rows)) == expected
    assert read_examples(jsonl(tmp_path, [{"text": " One\n"}])) == [Example(1, None, " One\n")]


def test_a_dataset_of_hugging_face_is_what_its_jsonl_is(tmp_path: Path) -> None:
    rows = [{**row, "source": "here"} for row in QUESTIONS]
    from_lines = read_examples(jsonl(tmp_path, rows))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "set")
    from_dataset = read_examples(tmp_path / "set" / "train")
    assert [example.number for example in from_dataset] == [0, 1]
    texts = [[(example.prompt, example.completion) for example in examples]
             for examples in (from_lines, from_dataset)]  # fmt: skip
    assert texts[0] == texts[1]
    with pytest.raises(InputError, match=re.escape(f"name one: {tmp_path / 'set' / 'train'}")):
        read_examples(tmp_path / "set")


def test_lines_may_end_as_on_windows_begin_with_a_mark_and_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert [example.number for example in read_examples(path)] == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b', "line 2: is not valid JSON"),
        (b'{"text": "a"}\n["b"]', "line 2: is not a JSON object"),
        (b'{"text": "a"}\n\xff\n', "line 2: is not UTF-8"),
        (
            b'{"text": "a"}\n{"text": "b\\ud800"}',
            r"line 2: the text 'b\ud800' is not valid Unicode",
        ),
        (b'{"text": "a"}\n{"text": 7}', "line 2: the text must be a text, not 7"),
        (b'{"text": " \\n"}', "line 1: the text is empty"),
        (b'{"question": "a", "answer": ""}', "line 1: the answer is empty"),
        (b'{"prompt": "a", "completion": " "}', "line 1: the completion is empty"),
        (b'{"question": null, "answer": "b"}', "line 1: the question must be a text, not None"),
        (b'{"question": "a"}', "line 1: has 'question'; it needs 'question' and 'answer', or"),
        (b"{}", "line 1: has no field"),
        (
            b'{"text": "a"}\n\n{"prompt": "a", "completion": "b"}',
            "line 3: has 'prompt' and 'completion', and those before it 'text'",
        ),
        (b" \n", "holds no example"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}")) as raised:
        read_examples(path)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_wrong_with_a_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no dataset that save_to_disk wrote") as raised:
        read_examples(tmp_path)
    assert "\n" not in str(raised.value)
    datasets.Dataset.from_list([{"text": "a"}, {"text": None}]).save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match="row 1: the text must be a text, not None"):
        read_examples(tmp_path / "set")
