"""The certificate: what it says is so, and what differs from it is found."""

import dataclasses
import hashlib
import json
import math
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neox_eqx.checkpoint.entry import FileEntry
from neox_eqx.convert.certificate import CERTIFICATE
from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.convert.forward import NEW, compare
from neox_eqx.convert.read import read_source
from neox_eqx.errors import InputError
from tests.convert.hf_checkpoints import (
    add_companions,
    family_tensors,
    raw_tensors,
    write,
    write_family,
)
from tests.hf_models import FAMILIES

FAMILY = "rinna-3.6b"
# All that can have a part in the bytes of a result.
PACKAGES = ("neox_eqx", "jax", "jaxlib", "equinox", "numpy", "ml_dtypes", "torch", "transformers")
PACKAGES += ("orbax-checkpoint", "tensorstore")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certified") / "source"
    return add_companions(write_family(directory, FAMILY, "mixed"))


@pytest.fixture(scope="module")
def results(source: Path) -> dict[str, Path]:
    """The source in each layout, with its certificate."""
    found = {}
    for to in ("hf", "native", "neox"):
        found[to] = source.parent / to
        convert(source, found[to], to=to, max_shard_bytes=50_000, verify=False)
    return found


def certificate(directory: Path) -> dict[str, Any]:
    return json.loads((directory / CERTIFICATE).read_text())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
def test_it_hashes_all_files_and_tensors_of_both_sides(
    source: Path, results: dict[str, Path], to: str
) -> None:
    found = certificate(results[to])
    for side, directory in (("source", source), ("result", results[to])):
        files = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file() and path.name != CERTIFICATE
        }
        assert found[side]["files"] == {
            name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()
        }
    assert found["source"]["layout"] == "hf" and found["result"]["layout"] == to
    assert found["source"]["directory"] == str(source.resolve())
    expected = raw_tensors(source)
    assert found["tensors"].keys() == expected.keys()
    for name, (dtype, shape, data) in expected.items():
        described = found["tensors"][name]
        assert described["source"] == described["result"]
        assert described["source"] == {
            "dtype": str(dtype).removeprefix("torch."),
            "sha256": sha256(data),
        }
        assert tuple(described["shape"]) == shape
    packages = {name: version(name) for name in PACKAGES}
    assert found["versions"] == {"python": platform.python_version()} | packages
    assert found["forward"] == {"skipped": "--no-verify"}


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
def test_files_as_certified_pass(results: dict[str, Path], to: str) -> None:
    files, tensors = check(results[to])
    assert files == len(certificate(results[to])["result"]["files"])
    assert tensors == len(raw_tensors(results["hf"]))


def one_byte(directory: Path) -> Path:
    """Flips a bit in the middle of a file with parameters."""
    path = max(
        (path for path in directory.rglob("*") if path.is_file()),
        key=lambda path: (path.stat().st_size if path.name != CERTIFICATE else 0, path),
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def one_byte_of_the_tokenizer(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n\n"))
    return path


def a_byte_more(directory: Path) -> Path:
    path = directory / "generation_config.json"
    path.write_bytes(path.read_bytes() + b"\n")
    return path


def a_file_gone(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    path.unlink()
    return path


def a_file_more(directory: Path) -> Path:
    path = directory / "merges.txt"
    path.write_text("a b")
    return path


@pytest.mark.parametrize("to", ["hf", "native", "neox"])
@pytest.mark.parametrize(
    "change", [one_byte, one_byte_of_the_tokenizer, a_byte_more, a_file_gone, a_file_more]
)
def test_what_changed_is_named(
    tmp_path: Path, results: dict[str, Path], to: str, change: Callable[[Path], Path]
) -> None:
    copy = Path(shutil.copytree(results[to], tmp_path / "copy"))
    changed = change(copy)
    with pytest.raises(InputError) as caught:
        check(copy)
    assert str(caught.value).startswith(f"{changed}: differs from certificate.json: ")
    assert "\n" not in str(caught.value)


def test_a_certificate_of_other_tensors_fails(tmp_path: Path, results: dict[str, Path]) -> None:
    copy = Path(shutil.copytree(results["hf"], tmp_path / "copy"))
    found = certificate(copy)
    name, tensor = next(iter(found["tensors"].items()))
    tensor["result"]["sha256"] = sha256(b"another")
    (copy / CERTIFICATE).write_text(json.dumps(found))
    with pytest.raises(InputError, match="the tensors in the files are not those it lists"):
        check(copy)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"result": {"files": 3}, "tensors": {}}', "\x00"]
)
def test_what_is_no_certificate_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CERTIFICATE).write_text(text)
    with pytest.raises(InputError, match=r"certificate\.json: "):
        check(tmp_path)


def test_no_certificate_at_all_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match=r"certificate\.json: cannot be read: No such file"):
        check(source)


@pytest.mark.parametrize(
    ("to", "dtype", "read"),
    [
        ("native", "same", "the source's files"),
        ("hf", "same", "the source's files"),
        ("neox", "same", "the source's files"),
        ("hf", "bfloat16", "the result's files"),
        ("native", "float16", "the tensors of the result, by our reader"),
    ],
)
def test_our_logits_and_greedy_tokens_are_those_of_transformers(
    tmp_path: Path, source: Path, to: str, dtype: str, read: str
) -> None:
    forward = convert(source, tmp_path / "result", to=to, dtype=dtype)["forward"]
    assert forward["transformers_read"] == read
    assert forward["dtype"] == "float32"
    assert forward["largest_logit_difference"] < 2e-5
    assert forward["logit_rms"] > 0.5
    assert forward["greedy_tokens"] == forward["greedy_tokens_agreeing"] == NEW == 32
    assert certificate(tmp_path / "result")["forward"] == forward


@pytest.mark.parametrize(
    ("to", "read"),
    [("hf", "the result's files"), ("neox", "the tensors of the result, by our reader")],
)
def test_a_source_that_only_this_package_reads_is_held_by_its_result(
    tmp_path: Path, to: str, read: str
) -> None:
    """transformers reads no index without metadata."""
    source = write_family(tmp_path / "source", FAMILY)
    tensors, shard = family_tensors(FAMILY), "model-00001-of-00001.safetensors"
    (source / "model.safetensors").rename(source / shard)
    index = {"weight_map": dict.fromkeys(tensors, shard)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    forward = convert(source, tmp_path / "result", to=to)["forward"]
    assert forward["transformers_read"] == read
    assert forward["greedy_tokens_agreeing"] == NEW


def test_a_tied_source_with_a_head_of_its_own_is_compared_with_it(tmp_path: Path) -> None:
    tensors = family_tensors("line-3.6b")
    tensors["embed_out.weight"] = torch.randn_like(tensors["gpt_neox.embed_in.weight"])
    source = write(tmp_path / "source", FAMILIES["line-3.6b"], tensors)
    with pytest.warns(UserWarning, match="the stored head is used"):
        convert(source, tmp_path / "native", to="native", verify=False)
        forward = convert(tmp_path / "native", tmp_path / "again", to="native")["forward"]
    assert forward["largest_logit_difference"] < 1e-4 * forward["logit_rms"]


def test_another_models_parameters_show_in_the_logits(tmp_path: Path, source: Path) -> None:
    """The comparison is sharp: one number of one bias, off by a tenth."""
    tensors = family_tensors(FAMILY, "mixed")
    tensors["gpt_neox.layers.1.attention.dense.bias"][0] += 0.1
    other = write(tmp_path / "other", FAMILIES[FAMILY], tensors)
    ours, theirs = read_source(other), read_source(source)
    forward = compare(theirs, theirs, ours, other)
    assert forward["largest_logit_difference"] > 1e-2


def test_a_model_with_nan_has_no_logits_to_compare(tmp_path: Path) -> None:
    tensors = family_tensors("pythia-70m")
    tensors["gpt_neox.layers.0.attention.dense.bias"][0] = math.nan
    source = write(tmp_path / "source", FAMILIES["pythia-70m"], tensors)
    forward = convert(source, tmp_path / "result", to="hf")["forward"]
    assert forward == {"skipped": "the logits are not finite, in float32"}


def test_a_model_beyond_the_memory_is_not_run(source: Path) -> None:
    found = read_source(source)
    huge = FileEntry(source, "huge", (10**6, 10**6), np.dtype("f2"), 0, (10**6, 1))
    result = dataclasses.replace(found, entries=[*found.entries, huge])
    forward = compare(found, found, result, source)
    assert forward["skipped"].startswith("needs 4.00 TB of memory in float32, and ")


WITHOUT = """
import sys
sys.modules["torch"] = None  # as if it was not installed
from neox_eqx.convert.convert import convert
from neox_eqx.errors import InputError
print(convert(sys.argv[1], sys.argv[2], to="native")["forward"])
try:
    convert(sys.argv[1], sys.argv[3], to="neox")
except InputError as error:
    print(error)
"""


def test_without_torch_it_says_so(tmp_path: Path, source: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, source, tmp_path / "result", tmp_path / "neox"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    forward, refusal = ended.stdout.splitlines()
    assert forward == "{'skipped': 'transformers and torch are not installed'}"
    assert refusal.endswith("needs PyTorch to be written; pip install torch")
    assert not (tmp_path / "neox").exists()
    assert check(tmp_path / "result")


def test_what_reads_back_otherwise_is_no_conversion(tmp_path: Path, source: Path) -> None:
    """The hashes are of what the files hold, not of what was meant."""
    from neox_eqx.convert.certificate import certify

    tensors = family_tensors(FAMILY, "mixed")
    tensors["gpt_neox.final_layer_norm.bias"][0] += 1
    other = write(tmp_path / "other", FAMILIES[FAMILY], tensors)
    found = read_source(source)
    with pytest.raises(InputError, match="gpt_neox.final_layer_norm.bias reads back otherwise"):
        certify(found, found, read_source(other), other)
