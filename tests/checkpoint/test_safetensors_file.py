"""Our safetensors reader agrees with the library, reads no byte too many, and trusts no header."""

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from neox_eqx.checkpoint.safetensors_file import MAX_HEADER_BYTES, read_entries, write_tensors
from neox_eqx.errors import InputError

SLICES = [
    (slice(None), slice(None), slice(None)),
    (slice(2, 5), slice(None), slice(None)),
    (slice(6, 7), slice(1, 3), slice(None)),
    (slice(None), slice(None), slice(2, 5)),
    (slice(3, 3), slice(None), slice(None)),
    (slice(0, 7), slice(0, 4), slice(0, 5)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Tensors of several dtypes and ranks, written by the library."""
    random = np.random.default_rng(0)
    tensors = {
        "cube": random.standard_normal((7, 4, 5)).astype(np.float32),
        "half": random.standard_normal((7, 4, 5)).astype(np.float16),
        "brain": random.standard_normal((7, 4, 5)).astype(ml_dtypes.bfloat16),
        "double": random.standard_normal((7, 4, 5)),
        "flags": random.random((7, 4, 5)) < 0.5,
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def test_headers_and_values_are_those_of_the_library(path: Path) -> None:
    entries = {entry.name: entry for entry in read_entries(path)}
    with safetensors.safe_open(path, "numpy") as file:
        assert set(entries) == set(file.keys())
        for name, entry in entries.items():
            theirs = file.get_tensor(name)
            ours = entry.read((slice(None),) * theirs.ndim)
            assert (
                (entry.shape, entry.dtype)
                == (theirs.shape, theirs.dtype)
                == (
                    ours.shape,
                    ours.dtype,
                )
            )
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("index", SLICES)
@pytest.mark.parametrize("name", ["cube", "half", "brain", "flags"])
def test_slices_are_those_of_numpy(path: Path, name: str, index: tuple[slice, ...]) -> None:
    entry = next(entry for entry in read_entries(path) if entry.name == name)
    with safetensors.safe_open(path, "numpy") as file:
        np.testing.assert_array_equal(entry.read(index), file.get_tensor(name)[index])


def test_rows_need_only_their_own_bytes(tmp_path: Path) -> None:
    """A file cut off after row 5 still gives rows 2 to 5, and says so when asked for more."""
    tensor, path = np.arange(40, dtype=np.float32).reshape(10, 4), tmp_path / "x.safetensors"
    save_file({"x": tensor}, path)
    (entry,) = read_entries(path)
    os.truncate(path, path.stat().st_size - 4 * 16)
    np.testing.assert_array_equal(entry.read((slice(2, 6), slice(None))), tensor[2:6])
    with pytest.raises(InputError, match="ends within x"):
        entry.read((slice(2, 7), slice(None)))


def test_library_reads_what_is_written(tmp_path: Path, path: Path) -> None:
    entries = read_entries(path)
    tensors = [entry.read((slice(None),) * len(entry.shape)) for entry in entries]
    layout = [(entry.name, entry.shape, entry.dtype) for entry in entries]
    write_tensors(tmp_path / "y.safetensors", layout, iter(tensors))
    with safetensors.safe_open(tmp_path / "y.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        for entry, tensor in zip(entries, tensors, strict=True):
            assert file.get_tensor(entry.name).tobytes() == tensor.tobytes()


def with_header(header: Any, data: bytes = b"\0" * 24) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def tensor(begin: int, end: int, *shape: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_the_sound_form_of_the_corrupt_files_below_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": tensor(0, 16, 2, 2), "b": tensor(16, 24, 2)}))
    assert [entry.shape for entry in read_entries(path)] == [(2, 2), (2,)]


CORRUPT = {
    "empty": b"",
    "half a length": b"\0\0\0",
    "no header": (0).to_bytes(8, "little") + b"{}",
    "longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "huge": (2**63).to_bytes(8, "little") + b"{}",
    "not JSON": with_header(b"{]"),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "deep": with_header(b"[" * 10_000),
    "a list": with_header([]),
    "no fields": with_header({"a": 3}),
    "no shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 24]}}),
    "three offsets": with_header({"a": tensor(0, 24, 6) | {"data_offsets": [0, 24, 24]}}),
    "negative size": with_header({"a": tensor(0, 24, -2, -3)}),
    "fraction": with_header({"a": tensor(0, 24, 6.0)}),
    "boolean size": with_header({"a": tensor(0, 24, 6, True)}),
    "text size": with_header({"a": tensor(0, 24, "6")}),
    "shape too large": with_header({"a": tensor(0, 24, 7)}),
    "shape too small": with_header({"a": tensor(0, 24, 5)}),
    "backwards": with_header({"a": tensor(24, 0, 6)}),
    "beyond the end": with_header({"a": tensor(0, 28, 7)}),
    "hole at the start": with_header({"a": tensor(4, 24, 5)}),
    "hole": with_header({"a": tensor(0, 8, 2), "b": tensor(12, 24, 3)}),
    "overlap": with_header({"a": tensor(0, 16, 4), "b": tensor(12, 24, 3)}),
    "nine dimensions": with_header({"a": tensor(0, 24, 6), "b": tensor(24, 24, 0, *[2**62] * 8)}),
    "left over": with_header({"a": tensor(0, 20, 5)}),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match="is truncated or corrupt: .*; get the file again$"
    ) as caught:
        read_entries(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [0, 7, 8, 50, -1, -100])
def test_truncated_file_is_named(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="is truncated or corrupt"):
        read_entries(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", 3, None, ["F32"]])
def test_unknown_dtype_is_named(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": tensor(0, 24, 6, dtype=dtype)}))
    with pytest.raises(InputError, match="a has the unsupported dtype"):
        read_entries(path)


def test_header_length_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(InputError, match="no whole header"):
        read_entries(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x.safetensors: cannot be read: No such file"):
        read_entries(tmp_path / "x.safetensors")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a pipe or a device and not a file"):
        read_entries(tmp_path / "model.safetensors")
