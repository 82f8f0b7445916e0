"""Commands keep what they compile, within a limit, and go on where that is damaged or refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neox_eqx import programs

ROOT = Path(__file__).parents[2]
# Two programs, and how often XLA compiled: what is kept is counted as used instead.
COMPILING = """
import sys
from neox_eqx.programs import keep_programs

keep_programs("test")
import jax

counts = {"hits": 0, "misses": 0}

def listen(event, **_):
    for name in counts:
        counts[name] += event == f"/jax/compilation_cache/cache_{name}"

jax.monitoring.register_event_listener(listen)
double = jax.jit(lambda x: x * 2)
print(double(21), double(0.5), counts["hits"], counts["misses"])
"""


def environment(**changes: str) -> dict[str, str]:
    others = (
        programs.SWITCH,
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    )
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | changes


def compiled(before: str = "", **changes: str) -> tuple[str, str]:
    """What the program prints and complains of, after a line that goes before."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{before}\n{COMPILING}"],
        capture_output=True,
        text=True,
        env=environment(**changes),
        check=True,
    )
    return ran.stdout.strip(), ran.stderr


def kept(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def test_a_second_run_compiles_nothing_and_damage_is_made_anew(tmp_path: Path) -> None:
    place = tmp_path / "neox_eqx" / "programs"
    assert compiled(XDG_CACHE_HOME=str(tmp_path)) == ("42 1.0 0 2", "")
    whole = {path: path.read_bytes() for path in kept(place)}
    assert len(whole) == 2
    assert place.stat().st_mode & 0o777 == 0o700
    assert compiled(XDG_CACHE_HOME=str(tmp_path)) == ("42 1.0 2 0", "")

    for path in whole:
        os.truncate(path, path.stat().st_size // 2)
    out, err = compiled(XDG_CACHE_HOME=str(tmp_path))
    assert out == "42 1.0 0 2"
    assert len(err.splitlines()) == 1 and err.startswith(f"test: {place}/")
    assert "a compiled program cannot be read, and is made anew (" in err
    assert compiled(XDG_CACHE_HOME=str(tmp_path)) == ("42 1.0 2 0", "")


def test_without_a_place_it_works_without(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert compiled(XDG_CACHE_HOME=str(file)) == ("42 1.0 0 0", "")


def test_on_a_full_disk_it_works_without(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    out, err = compiled(full, XDG_CACHE_HOME=str(tmp_path))
    assert out == "42 1.0 0 2"
    assert len(err.splitlines()) == 1
    assert "a compiled program cannot be kept (OSError: [Errno 27] File too large)" in err
    assert not kept(tmp_path)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What JAX is told, which is itself left as it is."""
    settings: dict[str, object] = {}
    monkeypatch.setattr(programs.jax.config, "update", settings.__setitem__)
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    return settings


def test_a_directory_can_be_named_and_turned_off(
    told: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(programs.SWITCH, "0")
    programs.keep_programs("test")
    assert not told and not kept(tmp_path)
    monkeypatch.setenv(programs.SWITCH, str(tmp_path / "named"))
    programs.keep_programs("test")
    (machine,) = (tmp_path / "named").iterdir()
    assert told["jax_compilation_cache_dir"] == str(machine)
    assert not (tmp_path / "home").exists()
    assert capsys.readouterr() == ("", "")


def test_one_of_another_user_is_not_run(
    told: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv(programs.SWITCH, str(tmp_path))
    programs.keep_programs("test")
    assert not told
    assert capsys.readouterr().err == (
        f"test: compiled programs are not kept: others may write to {tmp_path}; make it yours "
        "alone, or remove it\n"
    )


def test_the_directory_that_jax_was_told_stays(tmp_path: Path) -> None:
    own = tmp_path / "own"
    out, err = compiled(
        XDG_CACHE_HOME=str(tmp_path),
        JAX_COMPILATION_CACHE_DIR=str(own),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert (out, err) == ("42 1.0 0 2", "")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_what_was_used_last_stays_within_the_limit(
    told: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(programs.SWITCH, str(tmp_path))
    monkeypatch.setattr(programs, "MOST_BYTES", 250)
    (tmp_path / "another-machine").mkdir()
    for age in range(5):
        path = tmp_path / "another-machine" / f"jit_f-{age}-cache"
        path.write_bytes(b"0" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
    programs.keep_programs("test")
    assert [path.name for path in kept(tmp_path)] == ["jit_f-0-cache", "jit_f-1-cache"]
