"""The library is found, built once, and never what others, another machine or a cut left there."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from neox_eqx.native import build, library, store

ROOT = Path(__file__).parents[2]
# Says how often it was called, and links what was built before: compiling takes nine seconds.
QUICK = """#!/bin/sh
echo "$@" >> {log}
while [ $# -gt 1 ]; do
    [ "$1" = -o ] && cp {library} "$2"
    shift
done
"""
FAILING = """#!/bin/sh
echo "In file included from here:" >&2
echo "product.h:1:1: error: there is no such number" >&2
exit 1
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a compiler that only links the library that there is."""
    if not library.is_available():
        pytest.skip("there is no C++ compiler, or the library is turned off")
    ready = next(
        path
        for folder in (build.BESIDE, Path.home() / ".cache" / "neox_eqx" / "native")
        if (path := folder / build.file_name()).exists()
    )
    unsealed = tmp_path / "unsealed"
    unsealed.write_bytes(ready.read_bytes()[:-32])
    text = QUICK.format(log=tmp_path / "log", library=unsealed)
    monkeypatch.setenv("CXX", str(program(tmp_path / "compiler", text)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "neox_eqx" / "native"


def links(cache: Path) -> int:
    log = cache.parents[2] / "log"
    return log.read_text().count("-shared") if log.exists() else 0


def find(cache: Path) -> object:
    return store.find(cache.parents[2] / "beside")


def test_it_is_built_once_and_for_its_user_alone(
    cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert find(cache).neox_eqx_use and find(cache).neox_eqx_use
    assert links(cache) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in cache.iterdir()}
    assert files.pop(build.file_name()) == 0o600
    assert [*files] == ["lock"]
    assert capfd.readouterr() == ("", "")


def test_that_of_an_install_needs_no_cache(cache: Path, tmp_path: Path) -> None:
    find(cache)
    beside = tmp_path / "beside"
    beside.mkdir()
    (cache / build.file_name()).rename(beside / build.file_name())
    cache.rename(tmp_path / "gone")
    assert find(cache).neox_eqx_use
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "foreign"])
def test_what_is_damaged_is_passed_over_and_built_anew(
    cache: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cache / build.file_name()
    path.parent.mkdir(parents=True)
    # Before it is loaded: dlopen gives what it has of this name already.
    data = (cache.parents[2] / "unsealed").read_bytes()
    data += hashlib.sha256(data).digest()
    foreign = b"\x7fELF of another machine"
    foreign += hashlib.sha256(foreign).digest()
    wrong = {"cut": data[:999], "empty": b"", "changed": b"?" + data[1:], "foreign": foreign}
    path.write_bytes(wrong[damage])
    assert find(cache).neox_eqx_use
    out, err = capfd.readouterr()
    reason = "cannot be loaded" if damage == "foreign" else "is damaged"
    assert (out, err.count("\n")) == ("", 1)
    assert f"{path} {reason}" in err
    assert path.read_bytes() == data and links(cache) == 1
    assert find(cache) and capfd.readouterr().err == ""


def test_processes_that_start_together_build_one(cache: Path) -> None:
    code = "from neox_eqx.native import store; print(bool(store.find().neox_eqx_use))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0] for process in started] == ["True\n"] * 3
    assert links(cache) <= 1  # none where an install has it


def test_threads_that_start_together_build_one(cache: Path) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(find(cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and links(cache) == 1


def test_a_build_that_fails_is_told_by_its_first_error_and_not_tried_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path / "failing", FAILING)))
    with pytest.raises(build.BuildError, match="product.h:1:1: error: there is no such number$"):
        find(cache)
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    with pytest.raises(build.BuildError, match="no such number .remove .*failed to try again"):
        find(cache)
    next(cache.glob("*.failed")).unlink()
    assert find(cache)
    assert not [*cache.glob(".building*")]


def test_without_a_compiler_it_says_what_to_install(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler; install g\+\+ or clang\+\+"):
        find(cache)
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(build.BuildError, match="no-such-compiler failed: .*No such file"):
        find(cache)


def test_a_cache_that_others_may_write_to_is_refused(cache: Path) -> None:
    find(cache)
    cache.chmod(0o777)
    with pytest.raises(build.BuildError, match="others may write to"):
        find(cache)


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    cache.parents[1].write_text("a file")
    with pytest.raises(build.BuildError, match=f"{cache}: Not a directory"):
        find(cache)


def test_other_sources_another_interface_or_another_machine_has_another_name() -> None:
    name = build.file_name()
    machine = os.uname().machine.lower()
    assert machine in name and build.sources_key() in name
    assert library.PRODUCT.endswith(build.sources_key())


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [True, False])
def test_an_install_in_place_compiles_it_and_one_without_a_compiler_goes_through(
    tmp_path: Path, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiler and not shutil.which("c++"):
        pytest.skip("there is no C++ compiler")
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "neox_eqx",
        checkout / "neox_eqx",
        ignore=shutil.ignore_patterns("built", "__pycache__"),
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "podrun"):
        shutil.copy(ROOT / name, checkout)
    monkeypatch.delenv("CXX", raising=False)
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    code = "from setuptools import build_meta; build_meta.build_editable('..')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    path = checkout / "neox_eqx" / "native" / "built" / build.file_name()
    assert path.exists() == compiler
    assert build.is_whole(path) if compiler else "no C++ compiler" in ran.stdout
