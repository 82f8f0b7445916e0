"""Files and directories are whole or not there, and what killed processes left is taken over."""

import fcntl
import os
from pathlib import Path

import pytest

from neox_eqx.destination import new_directory, open_alone, whole_file
from neox_eqx.errors import InputError


def test_a_whole_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("새로운\n")
        assert path.read_text() == "old"
    assert path.read_text("utf-8") == "새로운\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [InputError("wrong"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), whole_file(path) as file:
        file.write("new")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_another_file_names_that_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: No such file"):
        with whole_file(tmp_path / "out.jsonl"):
            (tmp_path / "absent").read_text()
    with pytest.raises(BrokenPipeError), whole_file(tmp_path / "out.jsonl"):
        raise BrokenPipeError


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write("new")
    assert link.is_symlink() and target.read_text() == "new"


@pytest.mark.parametrize("name", ["absent/out.jsonl", "", ".", "..", "/", "x" * 300])
def test_a_file_that_cannot_be_made_is_known_before_the_work_begins(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError), whole_file(Path(name)):
        pytest.fail("the block must not begin")
    assert not list(tmp_path.iterdir())


def test_a_pipe_or_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    with whole_file(device) as file:
        file.write("gone")
    assert device.is_char_device()
    assert list(tmp_path.iterdir()) == [device]


def test_what_a_pipe_of_the_shell_leads_to_is_written(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with whole_file(Path(f"/dev/fd/{writer}")) as file:
        file.write("through")
    os.close(writer)
    with open(reader) as read:
        assert read.read() == "through"


def test_a_file_belongs_to_one_process_until_it_is_whole_and_the_next_takes_what_was_left(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.jsonl"
    (tmp_path / ".out.jsonl.partial").write_text("half of what a killed process wrote, and long")
    with whole_file(path) as file:
        file.write("first")
        with pytest.raises(InputError, match="out.jsonl: another process is writing it; wait for"):
            with whole_file(path):
                pytest.fail("the block must not begin")
    with whole_file(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_directory_belongs_to_one_process_until_it_is_whole_and_the_next_takes_what_was_left(
    tmp_path: Path,
) -> None:
    abandoned = tmp_path / ".result.partial"
    abandoned.mkdir()
    (abandoned / "model.safetensors").write_text("half")
    (tmp_path / ".result.partial.lock").touch()
    with new_directory(tmp_path / "result") as first:
        (first / "config.json").write_text("whole")
        with pytest.raises(InputError, match="result: another process is writing it; wait for it"):
            with new_directory(tmp_path / "result"):
                pytest.fail("the block must not begin")
        assert os.listdir(first) == ["config.json"]
    assert os.listdir(tmp_path) == ["result"]
    assert os.listdir(tmp_path / "result") == ["config.json"]


def test_a_lock_on_a_file_that_was_moved_away_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "file", fcntl.flock

    def late(file: object, how: int) -> None:
        if path.exists() and not path.read_text():
            path.rename(tmp_path / "moved")  # as another process does that is done with it
            path.write_text("of a third one")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with open_alone(path, of=path) as file:
        assert file.seek(0) == 0 and file.read() == b"of a third one"


def test_a_link_in_the_place_of_what_is_half_written_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years")
    (tmp_path / ".out.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="out: cannot be written: Too many levels"):
        with whole_file(tmp_path / "out"):
            pass
    assert (tmp_path / "precious").read_text() == "years"


def test_a_copy_that_the_disk_does_not_take_is_told_of_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="result: cannot be written: No space"):
        with new_directory(tmp_path / "result") as partial:
            raise OSError(28, "No space left on device", "model/a", None, str(partial / "a"))
