"""Reading of examples: the kinds that public data has, and what is wrong with a line."""

import json
import re
import tempfile
from pathlib import Path

import datasets
import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.data.examples import Example, read_examples

QUESTIONS = [
    {"question": "How many legs do 2 cats have?", "answer": "2 x 4 = 8 legs.\n#### 8"},
    {"question": "고양이 두 마리의 다리는?", "answer": "여덟 개 👍🏽\n#### 8"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares does not go to the user's home."""
    own = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(own))


def jsonl(directory: Path, rows: list[dict[str, str]]) -> Path:
    path = directory / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(rows: list[dict]) -> list[Example]:
    with tempfile.TemporaryDirectory() as directory:
        return read_examples(jsonl(Path(directory), rows))


def test_an_answer_is_learnt_with_the_line_break_before_it(tmp_path: Path) -> None:
    first, second = read_examples(jsonl(tmp_path, QUESTIONS))
    assert first == Example(1, "How many legs do 2 cats have?", "\n2 x 4 = 8 legs.\n#### 8", True)
    assert second == Example(2, "고양이 두 마리의 다리는?", "\n여덟 개 👍🏽\n#### 8", True)


def test_a_completion_and_a_plain_text_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [{"prompt": "One two", "completion": " three "}, {"prompt": "", "completion": "One"}]
    expected = [Example(1, "One two", " three "), Example(2, "", "One")]
    assert read_examples(jsonl(tmp_path, rows)) == expected
    assert read_examples(jsonl(tmp_path, [{"text": " One\n"}])) == [Example(1, None, " One\n")]


USER, ASSISTANT = (lambda text, role=role: {"role": role, "content": text}
                   for role in ("user", "assistant"))  # fmt: skip


@pytest.mark.parametrize(
    ("row", "user"),
    [
        ({"instruction": "Say it.", "input": "", "output": "It."}, {}),
        ({"instruction": "Say it.", "input": None, "output": "It."}, {}),
        ({"instruction": "Say it.", "output": "It."}, {}),
        ({"instruction": "Say it.", "input": "a b", "output": "It."}, {"context": "a b"}),
        # As Alpaca has it on the Hub: the text is the same once more.
        ({"instruction": "Say it.", "input": "", "output": "It.", "text": "Say it. It."}, {}),
        ({"instruction": "Say it.", "context": "", "response": "It.", "category": "qa"}, {}),
        ({"instruction": "Say it.", "context": "a b", "response": "It."}, {"context": "a b"}),
    ],
)
def test_an_instruction_is_what_the_user_says_with_its_input_apart(row: dict, user: dict) -> None:
    (example,) = read([row])
    assert example.messages == (USER("Say it.") | user, ASSISTANT("It."))
    assert (example.prompt, example.completion, example.is_answer) == (None, "It.", False)


def test_conversations_are_messages_whatever_the_speakers_are_called() -> None:
    said = [{"role": "system", "content": "Short."}, USER("A?"), ASSISTANT("B."), USER("C?"),
            ASSISTANT("D.")]  # fmt: skip
    (own,) = read([{"prompt": "A?", "messages": said}])
    assert own.messages == tuple(said) and own.completion == "D."
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [{"from": names[one["role"]], "value": one["content"]} for one in said]
    also = [{"from": one["role"], "value": one["content"]} for one in said]
    for turns in (shared, also, said):
        assert read([{"id": "x", "conversations": turns}])[0].messages == tuple(said)


def test_the_kind_of_a_table_with_the_fields_of_several_is_that_which_is_filled() -> None:
    rows = [{"prompt": None, "completion": None, "text": "a"}, {"text": "b"}]
    assert [example.completion for example in read(rows)] == ["a", "b"]


def test_messages_come_out_of_tables_as_they_went_in(tmp_path: Path) -> None:
    rows = [{"messages": [USER("A?"), ASSISTANT("B.")]}, {"messages": [USER("C?"), ASSISTANT("D")]}]
    expected = [tuple(row["messages"]) for row in rows]
    columns = datasets.Sequence({"role": datasets.Value("string"),
                                 "content": datasets.Value("string")})  # fmt: skip
    as_columns = [
        {"messages": {name: [one[name] for one in row["messages"]] for name in ("role", "content")}}
        for row in rows
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "new")
    features = datasets.Features({"messages": columns})
    datasets.Dataset.from_list(as_columns, features=features).save_to_disk(tmp_path / "old")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for name in ("new", "old", "a.parquet"):
        read = read_examples(tmp_path / name)
        assert [example.messages for example in read] == expected
        assert [(example.unit, example.number) for example in read] == [("row", 0), ("row", 1)]


def test_a_dataset_of_hugging_face_is_what_its_jsonl_is(tmp_path: Path) -> None:
    rows = [{**row, "source": "here"} for row in QUESTIONS]
    from_lines = read_examples(jsonl(tmp_path, rows))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "set")
    from_dataset = read_examples(tmp_path / "set" / "train")
    assert [example.number for example in from_dataset] == [0, 1]
    texts = [[(example.prompt, example.completion) for example in examples]
             for examples in (from_lines, from_dataset)]  # fmt: skip
    assert texts[0] == texts[1]


def test_a_dataset_may_be_the_directory_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_examples(jsonl(tmp_path, QUESTIONS))
    monkeypatch.chdir(tmp_path)
    texts = [[(example.prompt, example.completion) for example in examples]
             for examples in (expected, read_examples(Path()))]  # fmt: skip
    assert texts[0] == texts[1]


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
        (b'{"instruction": "", "output": "b"}', "line 1: the instruction is empty"),
        (b'{"instruction": "a", "output": " "}', "line 1: the assistant says nothing"),
        (b'{"instruction": "a", "output": 7}', "line 1: the output must be a text, not 7"),
        (
            b'{"instruction": "a", "input": [], "output": "b"}',
            "line 1: the input must be a text, not []",
        ),
        (b'{"messages": []}', "line 1: messages is empty"),
        (b'{"messages": "a"}', "line 1: the messages must be a list of objects, not 'a'"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "line 1: the assistant says nothing"),
        (b'{"messages": [{"role": "bot", "content": "a"}]}', "line 1: message 1: role must be one"),
        (b'{"messages": [7]}', "line 1: item 1 of messages must be an object, not 7"),
        (
            b'{"conversations": [{"from": "bing", "value": "a"}]}',
            "line 1: item 1 of conversations must be from one of human, user, gpt, ",
        ),
        (b'{"conversations": ["a", "b"]}', "line 1: item 1 of conversations must be an object"),
        (
            b'{"conversations": [{"from": "human", "value": 7}]}',
            "line 1: message 1: content must be a text, not 7",
        ),
        (b'[{"text": "a"}, {"text": 7}]', "item 2: the text must be a text, not 7"),
        (b'{"%s": 1}' % (b"a" * 9999), "it needs 'question' and 'answer', or"),
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
    assert len(str(raised.value)) < 800


def test_what_is_wrong_with_a_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset that can be loaded: The dir") as raised:
        read_examples(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.jsonl").write_text('{"text": ')
    with pytest.raises(InputError, match="broken: is no dataset that can be loaded: JSON parse"):
        read_examples(tmp_path / "broken")
    datasets.Dataset.from_list([{"text": "a"}, {"text": None}]).save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match="row 1: the text must be a text, not None"):
        read_examples(tmp_path / "set")
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    columns = {"text": ["a"], "image": [{"bytes": b"none", "path": None}]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "images")
    with pytest.raises(InputError, match="images: is no dataset that can be loaded: "):
        read_examples(tmp_path / "images")
