"""A directory is one run's and one program's, and a run goes on with the settings it began with."""

import os
import threading
from pathlib import Path

import pytest

from neox_eqx.errors import InputError
from neox_eqx.training.data.examples import read_examples
from neox_eqx.training.run.settings import _is_seen, claimed, keep_settings


def test_a_directory_belongs_to_one_program_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with claimed(run):
        with pytest.raises(InputError, match="another process is writing it; wait for it"):
            with claimed(run):
                pass
    with claimed(run):
        pass


def test_a_directory_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no run, and is not empty"):
        with claimed(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    with claimed(tmp_path):
        (tmp_path / ".run.json.partial").write_text('{"steps"')
    with claimed(tmp_path):
        keep_settings(tmp_path, {"steps": 5}, goes_on=False)
    assert sorted(os.listdir(tmp_path)) == [".lock", "run.json"]
    (tmp_path / ".lock").unlink()  # as `cp run/*` leaves it
    with claimed(tmp_path):
        pass


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InputError, match=r"\.lock: is a pipe or a device and not a file"):
        with claimed(tmp_path):
            pass


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    with pytest.raises(InputError, match="cannot be made: File name too long"):
        with claimed(path):
            pass
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_examples(path)


def test_settings_are_kept_once_a_run_has_begun(tmp_path: Path) -> None:
    keep_settings(tmp_path, {"steps": 5, "targets": ("a", "b")}, goes_on=False)
    keep_settings(tmp_path, {"steps": 5, "targets": ("a",)}, goes_on=False)
    keep_settings(tmp_path, {"steps": 7, "targets": ("a",)}, goes_on=True)
    with pytest.raises(InputError, match=r"with another targets \(\[\"a\"\], not \[\"b\"\]\)"):
        keep_settings(tmp_path, {"steps": 7, "targets": ("b",)}, goes_on=True)


def test_the_commit_is_told_and_asked_of_none(tmp_path: Path) -> None:
    keep_settings(tmp_path, {"steps": 5, "commit": "a" * 40}, goes_on=False)
    keep_settings(tmp_path, {"steps": 5, "commit": "b" * 40}, goes_on=True)
    assert "b" * 40 in (tmp_path / "run.json").read_text()


def test_what_another_host_has_made_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"

    def make() -> None:
        path.parent.mkdir()
        path.touch()

    later = threading.Timer(0.3, make)
    later.start()
    assert _is_seen(path)
    later.join()


def test_a_run_from_before_there_was_a_setting_goes_on_without_it(tmp_path: Path) -> None:
    keep_settings(tmp_path, {"steps": 5}, goes_on=False)
    with pytest.raises(InputError, match=r"with another use_rslora \(null, not true\)"):
        keep_settings(tmp_path, {"steps": 5, "use_rslora": True}, goes_on=True)
    keep_settings(tmp_path, {"steps": 5, "use_rslora": False, "dropout": None}, goes_on=True)
