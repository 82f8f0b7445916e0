"""Tensors of a .bin file come from their own bytes, however torch laid them out."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from neox_eqx.checkpoint.entry import FileEntry
from neox_eqx.checkpoint.torch_file import MemoryEntry, read_entries, read_states
from neox_eqx.checkpoint.torch_zip import MAX_PICKLE_BYTES
from neox_eqx.errors import InputError

SLICES = [
    (slice(None), slice(None)),
    (slice(1, 4), slice(None)),
    (slice(2, 3), slice(1, 3)),
    (slice(0, 6), slice(3, 4)),
    (slice(2, 2), slice(None)),
]


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(12, 8)
    return {
        "plain": torch.randn(6, 4),
        "transposed": torch.randn(4, 6).T,
        "part of a larger one": base[3:9, 2:6],
        "every other row": base[::2, :4],
        "expanded": torch.randn(4).expand(6, 4),
        "shared": base.view(-1)[:24].view(6, 4),
        "half": torch.randn(6, 4).half(),
        "brain": torch.randn(6, 4).bfloat16(),
        "flags": torch.rand(6, 4) < 0.5,
        "parameter": torch.nn.Parameter(torch.randn(6, 4)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("index", SLICES)
def test_slices_are_those_of_torch(
    tmp_path: Path, tensors: dict[str, torch.Tensor], index: tuple[slice, ...], zipped: bool
) -> None:
    path = tmp_path / "x.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    entries = read_entries(path)
    assert [entry.name for entry in entries] == list(tensors)
    assert all(isinstance(entry, FileEntry if zipped else MemoryEntry) for entry in entries)
    for entry in entries:
        theirs = tensors[entry.name].detach()
        assert (entry.shape, entry.dtype.name) == (tuple(theirs.shape), str(theirs.dtype)[6:])
        np.testing.assert_array_equal(
            entry.read(index).astype(np.float64), theirs[index].double().numpy()
        )


def test_scalars_are_read(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor(-1e9), "y": torch.zeros(0, 3)}, tmp_path / "x.bin")
    scalar, empty = read_entries(tmp_path / "x.bin")
    assert scalar.read(()) == np.float32(-1e9)
    assert empty.read((slice(None), slice(None))).shape == (0, 3)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_file_that_was_zipped_again_gives_no_wrong_numbers(
    tmp_path: Path, tensors: dict[str, torch.Tensor], compression: int
) -> None:
    """Its tensors are elsewhere than torch would have put them, or compressed."""
    torch.save(tensors, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as old:
        with zipfile.ZipFile(tmp_path / "y.bin", "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    with pytest.raises(
        InputError, match="y.bin: .* is not where torch puts it; save the file again"
    ):
        read_entries(tmp_path / "y.bin")


@pytest.mark.parametrize("zipped", [True, False])
def test_unsupported_dtype_is_named(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.bin"
    torch.save(
        {"x": torch.zeros(3, dtype=torch.complex64)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(InputError, match="x.bin: x has the unsupported dtype torch.complex64"):
        read_entries(path)


@pytest.mark.parametrize(("record", "offset"), [(b"PK\1\2", 6), (b"PK\6\6", 0), (b"PK\6\7", 4)])
def test_damaged_directory_of_a_zip_file_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], record: bytes, offset: int
) -> None:
    """A member's version, the directory's signature, the number of disks: absurd in one byte."""
    path = tmp_path / "x.bin"
    torch.save(tensors, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(record) + offset] = 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="x.bin: is truncated or corrupt; get the file again"):
        read_entries(path)


def test_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(InputError, match="a.pt: is a pipe or a device and not a file"):
        read_states(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "module", [[torch.ones(3)], torch.ones(3), "x"], ids=["list", "one", "text"]
)
def test_module_of_a_training_run_that_is_no_dict_is_named(tmp_path: Path, module: object) -> None:
    torch.save({"module": module}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="a.pt: its module is no dict of tensors; save the ch"):
        read_states(tmp_path / "a.pt")


@pytest.mark.parametrize("member", ["byteorder", "data.pkl", ".data/version"])
def test_file_that_would_unpack_to_much_is_refused_unread(tmp_path: Path, member: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "small.bin")
    path = tmp_path / "bomb.bin"
    with (
        zipfile.ZipFile(tmp_path / "small.bin") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            if name != f"small/{member}":
                new.writestr(zipfile.ZipInfo(name), old.read(name))
        new.writestr(f"small/{member}", bytes(MAX_PICKLE_BYTES + 1))
    assert path.stat().st_size < 10**6
    with pytest.raises(
        InputError, match=f"{member}', which would unpack to {MAX_PICKLE_BYTES + 1} bytes"
    ):
        read_entries(path)


@pytest.mark.parametrize("member", ["byteorder", "BYTEORDER"])
def test_big_endian_file_is_refused_before_torch_crashes_on_it(tmp_path: Path, member: str) -> None:
    torch.save({"x": torch.ones(3)}, tmp_path / "x.bin")
    path = tmp_path / "big.bin"
    with zipfile.ZipFile(tmp_path / "x.bin") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name.endswith("/byteorder"):
                new.writestr(name.replace("byteorder", member), b"big")
            else:
                new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="big.bin: was written big-endian; save it on a little"):
        read_entries(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensor_whose_bytes_are_not_its_values_is_refused(tmp_path: Path, zipped: bool) -> None:
    """One with torch's negative bit, which would change its sign, and one without any values."""
    negated = torch.ones(3, dtype=torch.complex64).conj().imag
    for tensor in (negated, torch.zeros(3, device="meta")):
        path = tmp_path / "x.bin"
        torch.save({"x": tensor}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match="x.bin: x is (negated or without|not where torch)"):
            read_entries(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_name_out_of_all_proportion_is_refused_before_torch_looks_through_it(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "x.bin"
    pickled = b"cargparse\n" + 10_000_000 * b"x" + b"\n."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        whole = path.read_bytes()
        assert (end := whole.index(b"}q\x00.")) > 0  # of the dict without tensors
        path.write_bytes(whole[:end] + pickled)
    with pytest.raises(InputError, match="names 'argparse x+.*, which is no class of tensors"):
        read_entries(path)
