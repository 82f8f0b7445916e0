"""A path means the same however it is typed, and what is printed begins with it as typed."""

import json
import os
import shutil
from pathlib import Path

import pytest

from neox_eqx.convert.certificate import CERTIFICATE
from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.convert.read import read_source
from neox_eqx.errors import InputError
from tests.convert.hf_checkpoints import add_companions, write_family
from tests.convert.neox_checkpoints import STEP
from tests.convert.neox_reading import checkpoint

PATHS = ("d", "d/", "./d/.", "../{0.name}/d", "link", "{0}/d", "d/other/..")


@pytest.fixture(scope="module", params=["hf", "native", "neox"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a result of a conversion, `d`, and a link to it."""
    root = tmp_path_factory.mktemp(request.param)
    source = add_companions(write_family(root / "source", "pythia-70m"))
    convert(source, root / "d", to=request.param, verify=False)
    (root / "link").symlink_to("d")
    (root / "d" / "other").mkdir()
    return root


@pytest.mark.parametrize("path", PATHS)
def test_a_result_is_checked_by_any_path(
    results: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(results)
    assert check(Path(path.format(results)))[1] == 28


def test_a_result_is_checked_from_within(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results / "d")
    assert check(Path("."))[1] == 28
    monkeypatch.chdir(results / "d" / "other")
    assert check(Path(".."))[1] == 28


def test_what_came_later_is_named_by_the_path_as_typed(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(results / "d", tmp_path / "d")
    (tmp_path / "d" / "merges.txt").write_text("a b")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^d/merges\.txt: differs from .*: it came later"):
        check(Path("d"))


STEP_PATHS = ("x", "x/", "link", f"x/{STEP}", f"x/{STEP}/../{STEP}", f"{{0}}/x/{STEP}", "to-step")


@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_a_step_has_what_is_above_it_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    root = checkpoint().write(tmp_path / "x", layout)
    (root / "config.json").write_text(json.dumps(read_source(root).config_json))
    add_companions(root)
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "to-step").symlink_to(f"x/{STEP}")
    expected = read_source(root)
    assert expected.directory == root
    cases = [(tmp_path, path) for path in STEP_PATHS]
    cases += [(root, "."), (root, STEP), (root / STEP, "."), (root / STEP / "configs", "..")]
    for where, path in cases:
        monkeypatch.chdir(where)
        found = read_source(path.format(tmp_path))
        assert found.all_files().keys() == expected.all_files().keys(), path
        assert found.companions.keys() == {"generation_config.json", "tokenizer.json"}, path
        assert os.path.samefile(found.directory, root), path


def test_a_link_to_a_step_has_nothing_of_another_run_that_it_lies_in(tmp_path: Path) -> None:
    mine, other = (checkpoint().write(tmp_path / name, "pipeline") for name in ("mine", "other"))
    (other / "step").symlink_to(mine / STEP)
    assert read_source(other / "step").directory == mine
    (mine / "latest").unlink()
    # A run whose steps are on other disks.
    assert read_source(other / "step").directory == other


HOSTNAME = "etc/hostname"
ELSEWHERE = [f"../../../{HOSTNAME}", f"/{HOSTNAME}", "x/../../y", "link", "up/hostname"]
NO_NAMES = ["", ".", "a\nb", "\x00", "\ud800", "n" * 300, "a/" * 3000]


@pytest.mark.parametrize("name", ELSEWHERE + NO_NAMES, ids=range(12))
def test_a_certificate_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to("/etc/hostname")
    (tmp_path / "d" / "up").symlink_to("/etc")
    size = Path("/etc/hostname").stat().st_size
    files = {name: {"bytes": size, "sha256": "0"}}
    text = json.dumps({"result": {"files": files}, "tensors": {}})
    (tmp_path / "d" / CERTIFICATE).write_text(text)
    told = "is no file here|is a link out|cannot be|surrogates"
    with pytest.raises(InputError, match=told) as caught:
        check(tmp_path / "d")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_snapshot_of_the_hubs_cache_is_links_to_its_blobs(tmp_path: Path) -> None:
    """And what is converted from one are files."""
    hub = tmp_path / "models--a--b"
    snapshot = hub / "snapshots" / ("0" * 40)
    convert(
        add_companions(write_family(tmp_path / "source", "pythia-70m")),
        tmp_path / "hf",
        to="hf",
        verify=False,
    )
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for number, path in enumerate((tmp_path / "hf").iterdir()):
        shutil.copy(path, hub / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert check(snapshot)[1] == 28
    convert(snapshot, tmp_path / "native", to="native", verify=False)
    assert not any(path.is_symlink() for path in (tmp_path / "native").rglob("*"))
    assert check(tmp_path / "native")[1] == 28


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the shell leaves it: in `--check=~/x`, in quotes, in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_family(tmp_path / "source", "pythia-70m")
    convert("~/source", "~/result/", to="hf", verify=False)
    assert check(Path("~/result"))[1] == 28
    assert {path.name for path in tmp_path.iterdir()} == {"source", "result"}
