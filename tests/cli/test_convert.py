"""neox-eqx convert as its user runs it: whole results, clear refusals, and kills at any time."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neox_eqx import load
from neox_eqx.cli import convert
from neox_eqx.command_line import run
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import edit_config, rewrite
from tests.convert.hf_checkpoints import raw_tensors, write, write_family
from tests.hf_models import config_json, hf_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("command") / "source", "pythia-70m", "mixed")


def command(*args: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(convert.main, convert.Options, list(map(str, args)))
        except SystemExit as exit:
            status = exit.code
    return status, out.getvalue(), err.getvalue()


def refused(*args: str | Path) -> str:
    """The one line with which the command says no."""
    status, out, err = command(*args)
    assert (status, out, err.count("\n")) == (2, "", 1), (status, out, err)
    return err


def state(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_there_and_back_again(tmp_path: Path, source: Path) -> None:
    native, back = tmp_path / "a" / "native", tmp_path / "back"
    back.mkdir()
    status, out, err = command(source, native, "--to", "native")
    assert (status, err) == (0, "")
    assert out.startswith(f"{native}: 28 tensors, each read back and compared\nlogits within ")
    assert out.endswith("; 32 of 32 greedy tokens agree\n")
    arguments = [native, back, "--to", "hf", "--max-shard-size", "50KB", "--no-verify"]
    status, out, err = command(*arguments)
    assert (status, err) == (0, "")
    assert out.endswith("\nnot held against transformers: --no-verify\n")
    assert raw_tensors(back) == raw_tensors(source)
    assert len(list(back.glob("*.safetensors"))) > 3
    files = len(state(back)) - 1
    assert command("--check", back) == (
        0,
        f"{back}: {files} files and 28 tensors are as certified\n",
        "",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "back"]


def test_from_and_to_neox(tmp_path: Path, source: Path) -> None:
    uniform = write_family(tmp_path / "source", "redpajama-3b", "bfloat16")
    neox = ["--to", "neox", "--tensor-parallel", "2", "--neox-layout", "sequential", "--no-verify"]
    assert command(uniform, tmp_path / "neox", *neox)[::2] == (0, "")
    hf = ["--to", "hf", "--row-bias", "auto", "--padded-vocab", "keep"]
    status, out, err = command(tmp_path / "neox", tmp_path / "back", *hf)
    assert (status, err) == (0, "")
    assert "32 of 32 greedy tokens agree" in out
    assert raw_tensors(tmp_path / "back") == raw_tensors(uniform)


def test_check_says_what_differs(tmp_path: Path, source: Path) -> None:
    command(source, tmp_path / "result", "--to", "hf", "--no-verify")
    weights = tmp_path / "result" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert f"{weights}: differs from certificate.json: SHA-256" in refused(
        "--check", weights.parent
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give SRC DST --to hf|native|neox, or --check DIR"),
        (["a"], "give SRC DST --to"),
        (["a", "b"], "give SRC DST --to"),
        (["a", "b", "--to", "onnx"], "invalid choice"),
        (["a", "--check", "b"], "--check DIR stands alone"),
        (["./nowhere", "b", "--to", "hf"], "./nowhere: no such directory"),
        (["a", "b", "--to", "hf", "--max-shard-size", "5"], "the size '5' is not of the form"),
        (["a", "b", "--to", "hf", "--dtype", "int8"], "--dtype"),
        (["a", "b", "--to", "hf", "--shard-size", "5GB"], "there is no option --shard-size"),
    ],
)
def test_wrong_options_are_refused(args: list[str], message: str) -> None:
    assert message in refused(*args)


def test_help_explains_each_option() -> None:
    status, out, _ = command("--help")
    options = "--to --check --dtype --max-shard-size --row-bias --verify --tensor-parallel"
    assert status == 0 and all(option in out for option in options.split())


def add(directory: Path, name: str) -> None:
    rewrite(directory, {**load_file(directory / WEIGHTS), name: torch.ones(2, 2)})


WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / WEIGHTS).unlink(), "source: holds no checkpoint; expected model.saf"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-9]), "is truncated"),
        (lambda d: (d / "config.json").unlink(), "config.json: cannot be read: No such file"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: is not valid JSON"),
        (lambda d: edit_config(d, hidden_size=128), "{0-1}.attention.dense.bias [64], not [128]"),
        (lambda d: edit_config(d, num_hidden_layers=3), "missing: gpt_neox.layers.2."),
        (lambda d: edit_config(d, model_type="gpt_neox_japanese"), "model_type is"),
        (lambda d: add(d, "score.weight"), "config.json; unexpected: score.weight"),
    ],
)
@pytest.mark.parametrize("to", ["hf", "native"])
def test_a_bad_source_is_refused_and_nothing_written(
    tmp_path: Path, source: Path, spoil: Callable[[Path], object], message: str, to: str
) -> None:
    bad = Path(shutil.copytree(source, tmp_path / "source"))
    spoil(bad)
    before = state(bad)
    assert message in refused(bad, tmp_path / "result", "--to", to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert state(bad) == before


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
def test_a_destination_in_use_or_impossible_is_refused(
    tmp_path: Path, source: Path, to: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    assert "full: is not an empty directory; choose" in refused(
        source, tmp_path / "full", "--to", to
    )
    assert "note: is not an empty directory" in refused(source, tmp_path / "full/note", "--to", to)
    below = tmp_path / "full" / "note" / "below"
    assert "cannot be written: Not a directory" in refused(source, below, "--to", to)
    assert "/proc/nothing" in refused(source, "/proc/nothing/here", "--to", to)
    assert "source: is not an empty directory" in refused(source, source, "--to", to)
    assert state(tmp_path) == {"full/note": b"mine"}


# The bytes that a file may have, as if the disk were full then.
LIMITED = """
import resource, sys
from neox_eqx.cli import convert
from neox_eqx.command_line import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), -1))
run(convert.main, convert.Options)
"""


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
def test_a_full_disk_is_told_in_one_line_and_nothing_is_left(
    tmp_path: Path, source: Path, to: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, "20000", source, tmp_path / "result", "--to", to],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.endswith("result: cannot be written: File too large\n")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 MB, so that there is time to kill."""
    config = config_json(512, 8, vocab_size=2048)
    tensors = hf_model(config).state_dict()
    tensors = {name.replace("lm_head", "embed_out"): tensor for name, tensor in tensors.items()}
    return write(tmp_path_factory.mktemp("larger") / "source", config, tensors)


def partials(directory: Path) -> list[Path]:
    return list(directory.glob(".result.partial"))


@pytest.mark.parametrize("to", ["hf", "native"])
def test_kill_9_leaves_nothing_that_loads_and_the_next_run_works(
    tmp_path: Path, larger: Path, to: str
) -> None:
    arguments = [larger, tmp_path / "result", "--to", to, "--no-verify"]
    random.seed(to)
    killed = 0
    for wait in (0, random.uniform(0, 0.1), random.uniform(0, 0.3)):
        process = subprocess.Popen(
            [sys.executable, "-m", "neox_eqx", "convert", *arguments],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        while not partials(tmp_path) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)
        if (tmp_path / "result").exists():
            # The kill came after the one rename, so all of it is there.
            assert not partials(tmp_path)
            load(tmp_path / "result")
            shutil.rmtree(tmp_path / "result")
            continue
        killed += 1
        (left,) = partials(tmp_path)
        with pytest.raises(InputError):
            load(left)
    assert killed
    assert command(*arguments)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert command("--check", tmp_path / "result")[0] == 0
    if to == "hf":
        assert raw_tensors(tmp_path / "result") == raw_tensors(larger)
