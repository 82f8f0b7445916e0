"""The native layout: restored into any sharding, each reader reading what it holds."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neox_eqx import load
from neox_eqx.checkpoint.entry import blocks
from neox_eqx.checkpoint.files import read_entries
from neox_eqx.checkpoint.native import CHUNK_BYTES, PARAMETERS
from neox_eqx.checkpoint.torch_file import MemoryEntry
from neox_eqx.convert.convert import convert
from neox_eqx.convert.native_out import SHARDS, SMALLEST_CHUNK, chunk_rows, write_native
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import assert_same_bits
from tests.convert.hf_checkpoints import raw_tensors, write, write_family
from tests.hf_models import config_json, hf_model
from tests.sharding.processes import finish, start

NORM = "gpt_neox.final_layer_norm.weight"
# Of this each matrix has four chunks or more.
WIDE = config_json(256, 8, vocab_size=512, num_hidden_layers=1, use_parallel_residual=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = hf_model(WIDE).state_dict()
    tensors = {name.replace("lm_head", "embed_out"): tensor for name, tensor in tensors.items()}
    return write(tmp_path_factory.mktemp("wide") / "source", WIDE, tensors)


@pytest.fixture(scope="module")
def native(source: Path) -> Path:
    convert(source, source.parent / "native", to="native", verify=False)
    return source.parent / "native"


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_loads_as_its_source_does(source: Path, native: Path, stacked: bool, dtype: str) -> None:
    ours = load(native, dtype=dtype, stacked=stacked)
    assert_same_bits(ours, load(source, dtype=dtype, stacked=stacked))


@pytest.mark.parametrize("mesh", ["model=8", "data=2,model=4", "data=4,model=2", "data=8,model=1"])
def test_it_loads_onto_every_mesh(source: Path, native: Path, mesh: str) -> None:
    ours, expected = load(native, mesh=mesh), load(source, mesh=mesh)
    assert_same_bits(ours, expected)
    for array, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert array.sharding == other.sharding


def test_orbax_itself_restores_it_into_shardings(source: Path, native: Path) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    expected = raw_tensors(source)
    places = {
        name: NamedSharding(mesh, PartitionSpec("x", "y") if len(shape) == 2 else PartitionSpec())
        for name, (_, shape, _) in expected.items()
    }
    wanted = {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=places[name])
        for name, (_, shape, _) in expected.items()
    }
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(native / PARAMETERS, wanted)
    assert restored.keys() == expected.keys()
    for name, array in restored.items():
        assert array.sharding == places[name]
        assert np.asarray(array).tobytes() == expected[name][2]


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "float64"])
def test_any_dtype_and_a_scalar_are_stored(tmp_path: Path, dtype: str) -> None:
    array = np.arange(24).reshape(4, 6).astype(dtype)
    scalar = np.array(3).astype(dtype)
    write_native(
        [MemoryEntry(tmp_path, "a.b", array), MemoryEntry(tmp_path, "c", scalar)], tmp_path
    )
    first, second = read_entries(tmp_path)
    assert (first.name, first.dtype, second.shape) == ("a.b", array.dtype, ())
    assert np.array_equal(first.read((slice(1, 9), slice(-3, None))), array[1:9, -3:])
    assert np.array_equal(second.read(()), scalar)


# Rows, columns, bytes of an element: matrices of real models, a vocabulary that nothing divides.
@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        (18432, 6144, 2),
        (24576, 6144, 2),
        (6144, 24576, 2),
        (50277, 4864, 4),
        (512, 512, 4),
        (64, 0, 2),
    ],
)
def test_chunks_are_bounded_and_end_where_shards_do(rows: int, columns: int, size: int) -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(1, f"f{size}"), (rows, columns), (0, 0))
    entry = MemoryEntry(Path("x"), "x", array)
    chunk = chunk_rows(entry)
    assert 1 <= chunk <= rows
    assert chunk * columns * size <= CHUNK_BYTES
    if rows % SHARDS == 0 and rows // SHARDS * columns * size >= SMALLEST_CHUNK:
        assert rows // SHARDS % chunk == 0


def test_blocks_are_whole_chunks(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in read_entries(native) if e.name.endswith("dense_h_to_4h.weight"))
    granule = chunk_rows(entry)
    assert entry.shape[0] // granule == SHARDS
    monkeypatch.setattr(
        "neox_eqx.checkpoint.entry.BLOCK_ELEMENTS", 5 * granule * entry.shape[1] // 2
    )
    index = (slice(0, entry.shape[0]), slice(0, entry.shape[1]))
    firsts = [first for first, _ in blocks(entry, index, entry.dtype)]
    assert firsts == list(range(0, entry.shape[0], 2 * granule))


def chunk_files(native: Path) -> Iterator[tuple[Path, float, float]]:
    """The chunks of all matrices, with the share of the rows at which each begins and ends."""
    for array in (native / PARAMETERS).glob("*/zarr.json"):
        described = json.loads(array.read_text())
        rows, *columns = described["shape"]
        step = described["chunk_grid"]["configuration"]["chunk_shape"][0]
        for first in range(0, rows, step) if columns else ():
            path = array.parent / f"c.{first // step}.0"
            yield path, first / rows, (first + step) / rows


LOADS = """
import sys
import jax, jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from neox_eqx import load
from neox_eqx.sharding.distributed import initialize

initialize()
model = load(f"{sys.argv[1]}-{jax.process_index()}", mesh="model=8")
tokens = jnp.arange(8)[None]
score = lambda model: model.logits(model(tokens, jnp.ones(tokens.shape, bool))[0])
whole = NamedSharding(model.mesh, PartitionSpec())
print(np.asarray(jax.jit(score, out_shardings=whole)(model)).argmax(-1).tolist())
"""


def test_each_of_four_processes_reads_its_own_chunks_only(tmp_path: Path, native: Path) -> None:
    """Each has a disk with its quarter of each matrix: to read more than that is an error."""
    for process in range(4):
        disk = shutil.copytree(native, tmp_path / f"disk-{process}")
        for path, first, last in chunk_files(disk):
            if last <= process / 4 or first >= (process + 1) / 4:
                path.unlink()
    kept = [sum(1 for _ in tmp_path.glob(f"disk-{process}/**/c.*.0")) for process in range(4)]
    assert len(set(kept)) == 1 and 4 * kept[0] == sum(1 for _ in chunk_files(native))
    program = tmp_path / "loads.py"
    program.write_text(LOADS)
    ended = finish(start([program, tmp_path / "disk"], 4))
    assert [one.status for one in ended] == [0] * 4, ended
    model = load(native)
    tokens = jax.numpy.arange(8)[None]
    logits = model.logits(model(tokens, jax.numpy.ones(tokens.shape, bool))[0])
    assert json.loads(ended[0].out) == np.asarray(logits).argmax(-1).tolist()


def of_type(value: object) -> Callable[[Path], None]:
    """Gives an array this type."""
    return lambda d: edit(d / NORM / "zarr.json", data_type=value)


def of_chunks(rows: int) -> Callable[[Path], None]:
    """Gives an array chunks of so many rows, whatever is in them."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [rows]}}
    return lambda d: edit(d / NORM / "zarr.json", chunk_grid=grid)


def of_name(value: object) -> Callable[[Path], None]:
    """Gives a tensor this name."""
    leaf = {"key_metadata": [{"key": value, "key_type": 2}]}
    return lambda d: edit(d / "_METADATA", tree_metadata={"x": leaf})


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / NORM / "c.0").unlink(), f"{NORM}: is incomplete or corrupt: .* is missing"),
        (lambda d: flip(d / NORM / "c.0"), f"{NORM}: is incomplete or corrupt: .* mismatch"),
        (lambda d: (d / NORM / "c.0").write_bytes(b"abc"), f"{NORM}: is incomplete or corrupt"),
        (lambda d: (d / NORM / "zarr.json").unlink(), "zarr.json: cannot be read"),
        (
            lambda d: (d / NORM / "zarr.json").write_text("{}"),
            "it gives no shape, chunks",
        ),
        (lambda d: (d / "_METADATA").unlink(), "_METADATA: cannot be read"),
        (lambda d: (d / "_METADATA").write_text("{}"), "is not stored as this package stores"),
        (lambda d: shutil.rmtree(d / NORM), "zarr.json: cannot be read"),
        *((of_type(text), "it gives no shape, chunks") for text in ("(2,", "O", [])),
        (of_chunks(2**31), "c.0 is no file of [0-9]+ bytes"),
        (lambda d: edit(d / NORM / "zarr.json", codecs=[{"name": "zstd"}]), "its chunks are not"),
        (lambda d: os.truncate(d / NORM / "c.0", 2**40), "c.0 is no file of [0-9]+ bytes"),
        (
            lambda d: ((d / NORM / "c.0").unlink(), os.mkfifo(d / NORM / "c.0")),
            "c.0 is no file of [0-9]+",
        ),
        *((of_name(name), "cannot be a tensor's name") for name in (True, None, "n" * 300, "../x")),
    ],
)
def test_a_broken_one_is_refused_in_one_line(
    tmp_path: Path, native: Path, break_it: object, message: str
) -> None:
    broken = Path(shutil.copytree(native, tmp_path / "broken"))
    break_it(broken / PARAMETERS)
    with pytest.raises(InputError, match=message) as caught:
        load(broken)
    assert "\n" not in str(caught.value)
    assert re.search(r"/broken/parameters", str(caught.value))


def test_an_orbax_checkpoint_of_another_form_is_refused(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "pythia-70m")
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(source / "config.json", model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(model / PARAMETERS, {"a": np.zeros(3)})
    with pytest.raises(InputError, match="convert the model that it came from again"):
        load(model)


def test_a_file_that_came_under_the_same_name_is_read_anew(tmp_path: Path) -> None:
    values = [np.full((4, 3), number, np.float32) for number in range(3)]
    for value in values:
        write_native([MemoryEntry(tmp_path, "x", value)], tmp_path)
        (entry,) = read_entries(tmp_path)
        assert np.array_equal(entry.read((slice(0, 4), slice(0, 3))), value)
        shutil.rmtree(tmp_path / PARAMETERS)


def test_torch_agrees_on_what_a_chunk_holds(native: Path, source: Path) -> None:
    """A chunk is rows as they are in memory, little-endian, and four bytes of checksum."""
    name = "gpt_neox.layers.0.attention.dense.weight"
    data = (native / PARAMETERS / name / "c.1.0").read_bytes()
    rows = torch.frombuffer(bytearray(data[:-4]), dtype=torch.float32).reshape(-1, 256)
    expected = torch.frombuffer(bytearray(raw_tensors(source)[name][2]), dtype=torch.float32)
    assert torch.equal(rows, expected.reshape(-1, 256)[len(rows) : 2 * len(rows)])
