"""Files and datasets as rows: what pyarrow and datasets wrote is what is read."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.data.hf_rows import dataset_rows, is_dataset
from neox_eqx.training.data.rows import file_rows

ROWS: list[dict[str, Any]] = [
    {"instruction": "고양이는?", "input": "", "output": "야옹 👍🏽"},
    {"instruction": "Say it.", "input": "a\nb", "output": "[1]"},
    {"instruction": "Count.", "input": "", "output": "one"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes to this test's own directory."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_an_array_is_known_by_its_beginning_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for text in (json.dumps(ROWS), "\ufeff\n " + json.dumps(ROWS, indent=2, ensure_ascii=False)):
        path.write_text(text, encoding="utf-8")
        rows = list(file_rows(path))
        assert [row.fields for row in rows] == ROWS
        assert [(row.unit, row.number) for row in rows] == [("item", 1), ("item", 2), ("item", 3)]
    path.write_text(lines(ROWS), encoding="utf-8")
    assert [(row.unit, row.number) for row in file_rows(path)] == [
        ("line", number) for number in (1, 2, 3)
    ]


def test_a_parquet_file_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    many = ROWS * 1000
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many), path, row_group_size=700)
    rows = list(file_rows(path))
    assert [row.fields for row in rows] == many
    assert [row.number for row in rows] == list(range(len(many))) and rows[0].unit == "row"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "a"}', "is not valid JSON: Expecting ',' delimiter"),
        ("a.json", b'[{"text": "a"}, "b"]', "item 2: is not a JSON object"),
        ("a.json", b'[{"text": "\xff"}]', "is not valid JSON: 'utf-8' codec"),
        ("a.json", b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        ("a.json", b'{\n"data": []\n}', "line 1: is not valid JSON"),
        ("a.parquet", b'{"text": "a"}', "is not a Parquet file: Parquet magic bytes not found"),
        ("a.parquet", b"", "is not a Parquet file: "),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))) as raised:
        list(file_rows(path))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_saved_dataset_is_read_by_its_directory_and_split(tmp_path: Path) -> None:
    both = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "set")
    for source in ("set:train", "set/train"):
        assert [row.fields for row in dataset_rows(tmp_path / source)] == ROWS
    assert [row.fields for row in dataset_rows(tmp_path / "set:test")] == ROWS[:1]
    name = tmp_path / "set"
    for source, message in [
        ("set", f"{name}: holds several splits; name one of {name}:train, {name}:test"),
        ("set:dev", f"{name}: has no split 'dev'; name one of {name}:train, {name}:test"),
        ("set/train:train", f"{name}/train: is one dataset without splits; leave :train out"),
    ]:
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            list(dataset_rows(tmp_path / source))


def test_a_repository_of_files_is_read_as_from_the_hub(tmp_path: Path) -> None:
    """A directory as a clone of a dataset's repository, without and with configurations."""
    repository = tmp_path / "alpaca"
    repository.mkdir()
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, repository / "train-00000-of-00001.parquet")
    assert [row.fields for row in dataset_rows(repository)] == ROWS
    assert [row.fields for row in dataset_rows(tmp_path / "alpaca:train[:2]")] == ROWS[:2]
    with pytest.raises(InputError, match='can be loaded: Unknown split "dev"') as raised:
        list(dataset_rows(tmp_path / "alpaca:dev"))
    assert "\n" not in str(raised.value)
    configured = tmp_path / "gsm8k"
    for config in ("main", "socratic"):
        (configured / config).mkdir(parents=True)
        (configured / config / "train.jsonl").write_text(lines([{"text": config}]))
    (configured / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(f"- config_name: {c}\n  data_files: {c}/*.jsonl\n" for c in ("main", "socratic"))
        + "---\n"
    )
    (row,) = dataset_rows(tmp_path / "gsm8k:socratic:train")
    assert row.fields == {"text": "socratic"}
    with pytest.raises(InputError, match="Config name is missing.*'main', 'socratic'") as raised:
        list(dataset_rows(configured))
    assert "\n" not in str(raised.value)


def test_a_name_is_a_dataset_of_the_hub_only_where_no_file_can_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "here").write_text(lines(ROWS))
    hub = ("tatsu-lab/alpaca", "tatsu-lab/alpaca:train", "openai/gsm8k:main:train[:10%]")
    assert all(is_dataset(Path(name)) for name in (*hub, "data", "data:train"))
    files = ("train.jsonl", "/data/a", "data/here", "data/absent", "there/a.jsonl", "a/b/c")
    assert not any(is_dataset(Path(name)) for name in files)


def test_a_package_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="a.parquet: to read Parquet, pip install pyarrow"):
        list(file_rows(tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="tatsu-lab/alpaca: to read a dataset, pip install"):
        list(dataset_rows(Path("tatsu-lab/alpaca")))


def test_a_dataset_of_many_files_fills_no_log_with_bars(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / "data" / f"train-{number:05}-of-00020.jsonl").write_text('{"text": "One"}\n')
    assert len(list(dataset_rows(tmp_path / "data"))) == 20
    assert not capfd.readouterr().err
