"""Rows that outlive the process that wrote them, and never mix with others."""

import os
from pathlib import Path

import pytest

from neox_eqx.errors import InputError
from neox_eqx.text.resume import partial_rows

SUBJECT = {"model": "a", "input": "b"}


def add(output: Path, *places: int, torn: bytes = b"") -> None:
    """A run that ends after so many rows, and `torn` is what of the next one was written."""
    with partial_rows(output) as rows:
        rows.begin(SUBJECT)
        for place in places:
            rows.add(place, {"place": place, "text": "안녕\n"})
    partial = output.with_name("out.jsonl.partial")
    with partial.open("ab") as file:
        file.write(torn)


@pytest.mark.parametrize("torn", [b"", b"7", b'7\t{"place": 7', b"\0\0\0"])
def test_a_run_goes_on_with_the_rows_that_are_whole(tmp_path: Path, torn: bytes) -> None:
    output = tmp_path / "out.jsonl"
    add(output, 3, 1, torn=torn)
    add(output, 2, torn=torn)
    assert not output.exists()
    with partial_rows(output) as rows:
        rows.begin(SUBJECT)
        assert set(rows.starts) == {1, 2, 3}
        rows.add(0, {"place": 0})
        rows.finish()
    whole = r"""{"place": 0}
{"place": 1, "text": "안녕\n"}
{"place": 2, "text": "안녕\n"}
{"place": 3, "text": "안녕\n"}
"""
    assert output.read_text() == whole
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_run_whose_first_line_a_full_disk_cut_begins_anew(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"model": "a", "in')
    add(output, 0)
    with partial_rows(output) as rows:
        rows.begin(SUBJECT)
        assert set(rows.starts) == {0}


def test_rows_of_something_else_are_refused_and_kept(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    add(output, 0)
    partial = tmp_path / "out.jsonl.partial"
    before = partial.read_bytes()
    cases = {
        "another input": {**SUBJECT, "input": "c"},
        "another model and another input": {"model": "b", "input": "c"},
    }
    for others, subject in cases.items():
        with pytest.raises(InputError) as raised, partial_rows(output) as rows:
            rows.begin(subject)
        assert str(raised.value) == (
            f"{partial}: has rows of {others}; remove it, or name another --output"
        )
    # Nor are they lost with a mistake that is found before they are looked at.
    with pytest.raises(InputError, match="mistake"), partial_rows(output):
        raise InputError("a mistake")
    assert partial.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"notes\n", b"[1]\n", b"half of a download", b'{"a": 1}\n', b'{"model": "a"}\n']
)
def test_a_file_of_someone_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(2 * content)
    with pytest.raises(InputError, match="out.jsonl.partial: is no file of rows; remove it, or"):
        with partial_rows(tmp_path / "out.jsonl") as rows:
            rows.begin(SUBJECT)
    assert partial.read_bytes() == 2 * content


@pytest.mark.parametrize(
    "line", [b"\0\0\0\n", b'7\t{"a"\n', b"7\t[1}\n", b'{"a": 1}\n', b"\n", b"7\t{\x80}\n"]
)
def test_a_whole_line_that_is_no_row_is_left_alone_with_all_others(
    tmp_path: Path, line: bytes
) -> None:
    output = tmp_path / "out.jsonl"
    add(output, 0, torn=line + b"8\t{}\n")
    partial = tmp_path / "out.jsonl.partial"
    before = partial.read_bytes()
    with pytest.raises(InputError, match="out.jsonl.partial: is no file of rows; remove it, or"):
        add(output, 1)
    assert partial.read_bytes() == before


def test_a_run_without_a_row_leaves_nothing_and_is_of_whatever_comes_next(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with partial_rows(output) as rows:
        rows.begin(SUBJECT)
    assert os.listdir(tmp_path) == []
    # As a process leaves it that was killed before its first row.
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"model": "other", "input": "b"}\n')
    with partial_rows(output) as rows:
        rows.begin(SUBJECT)
        rows.add(0, {})
    add(output, 1)


def test_two_processes_do_not_write_the_same_rows(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with partial_rows(output):
        with pytest.raises(InputError, match="out.jsonl: another process is writing it; wait"):
            with partial_rows(output):
                pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for output, message in (
        (tmp_path, "is a directory; name a file"),
        (tmp_path / "absent" / "out", "absent/out: cannot be written: No such file or directory"),
    ):
        with pytest.raises(InputError, match=message), partial_rows(output):
            pass


def test_a_pipe_takes_the_rows_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with partial_rows(pipe) as rows:
        rows.begin(SUBJECT)
        rows.add(0, {})
        rows.finish()
    assert os.read(reader, 100) == b"{}\n"
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]
