"""Files that are read whole: a broken, strange or endless one is one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neox_eqx.errors import InputError
from neox_eqx.small_files import (
    MOST_LINE_BYTES,
    bounded_lines,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def test_what_stands_in_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"\xf0\x9f\x90\x84": 1,\r\n"\\ud83d\\ude00": [2]}')
    assert read_bytes(path) == path.read_bytes()
    assert read_text(path) == path.read_text("utf-8")
    assert read_json(path) == {"\N{COW}": 1, "\N{GRINNING FACE}": [2]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (os.mkfifo, "is a pipe or a device and not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device and not a file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: sparse(path, 2**40), "has more than 10000000 bytes"),
        (lambda path: path.write_bytes(b"\xff"), "is not valid JSON: 'utf-8' codec can't decode"),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf{}"), "is not valid JSON: Unexpected UTF-8 B"),
        (lambda path: path.write_text('{"a\\ud800": 1}'), "is not valid JSON: 'utf-8' codec can't"),
        (lambda path: path.write_text(f'{{"a": {"1" * 5000}}}'), "is not valid JSON: Exceeds the"),
        (lambda path: path.write_text('{"a":' * 101 + "1" + "}" * 101), "more than 100 levels"),
        (lambda path: path.write_text("[" * 100_000), "is not valid JSON: maximum recursion"),
        (lambda path: path.write_text("[1]"), "holds list, not a JSON object"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(InputError) as refusal:
        read_json(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 200


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"])
def test_a_name_that_can_be_no_files_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read: "):
        read_json(tmp_path / name)


def test_a_pipe_that_a_user_names_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as file:
        file.write(b"text")
        file.close()
        assert read_text(Path(f"/dev/fd/{reader}"), by_user=True) == "text"


def test_a_hundred_levels_of_json_are_read() -> None:
    deep = "[" * 100 + "]" * 100
    assert json.dumps(parse_json(deep)) == deep


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\r\nb")
    with path.open("rb") as file:
        assert [*bounded_lines(path, file)] == [(1, b"a\n"), (2, b"\r\n"), (3, b"b")]
    path.write_bytes(b"\xef\xbb\xbf")
    with path.open("rb") as file:
        assert [*bounded_lines(path, file)] == []


def test_a_line_without_an_end_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb")
    os.truncate(path, 2**40)
    with path.open("rb") as file, pytest.raises(InputError) as refusal:
        [*bounded_lines(path, file)]
    assert str(refusal.value) == f"{path}, line 2: has more than {MOST_LINE_BYTES} bytes"
