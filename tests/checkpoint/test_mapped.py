"""What a CPU can use as a file holds it stays in the page cache, and nothing writes to it."""

import gc
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from neox_eqx import GPTNeoX, GPTNeoXConfig, InputError, load, save
from neox_eqx.checkpoint import mapped, place
from neox_eqx.checkpoint.files import read_file
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.safetensors_file import encode_header
from tests.checkpoint.checkpoints import rewrite_as_bin

CONFIG = GPTNeoXConfig.from_hf(
    {
        "model_type": "gpt_neox",
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 512,
        "max_position_embeddings": 64,
    }
)
MATRIX = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
WHOLE = (slice(0, 512), slice(0, 128))


@pytest.fixture(scope="module")
def model() -> GPTNeoX:
    return GPTNeoX.init(CONFIG, dtype=jnp.dtype("bfloat16"), key=jax.random.key(0))


@pytest.fixture
def saved(model: GPTNeoX, tmp_path: Path) -> Path:
    """The directory of the model as this package saves it."""
    save(model, tmp_path / "saved", ())
    return tmp_path / "saved"


def assert_same_numbers(ours: GPTNeoX, expected: GPTNeoX) -> None:
    """All parameters are as stored, the small ones in float32."""
    for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(own, np.float32), np.asarray(other, np.float32))


def moved(directory: Path, by: int) -> None:
    """Moves the data of a file by spaces after its header, as other writers leave them."""
    path = directory / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + by).to_bytes(8, "little") + data[8 : 8 + length] + b" " * by)
    with path.open("ab") as file:
        file.write(data[8 + length :])


def ranges(path: Path) -> list[tuple[int, int]]:
    """The addresses at which this process has the file mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [re.match(r"(\w+)-(\w+) .*", line) for line in lines if line.endswith(str(path))]
    return [(int(match[1], 16), int(match[2], 16)) for match in found if match]


def is_within(array: jax.Array, path: Path) -> bool:
    """All parts of the array are in the file's mapping."""
    pointers = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
    return all(any(low <= at < high for low, high in ranges(path)) for at in pointers)


def test_matrices_stay_in_the_file_and_what_is_small_is_read(saved: Path, model: GPTNeoX) -> None:
    loaded, path = load(saved), saved / "model.safetensors"
    assert_same_numbers(loaded, model)
    in_file = {str(leaf.shape): is_within(leaf, path) for leaf in jax.tree.leaves(loaded)}
    assert in_file == {
        **{"(512, 128)": True, "(384, 128)": True, "(128, 512)": True},
        **{"(128, 128)": False, "(128,)": False, "(384,)": False, "(512,)": False},
    }
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert opened.count(str(path)) == 1  # one mapping for all tensors


def test_nothing_stays_mapped_once_the_model_is_gone(saved: Path) -> None:
    loaded = load(saved)
    assert ranges(saved / "model.safetensors")
    del loaded
    gc.collect()  # JAX lets go of what it was given then
    assert not ranges(saved / "model.safetensors")


def test_each_part_of_a_mesh_stays_in_the_file(saved: Path, model: GPTNeoX) -> None:
    loaded = load(saved, mesh="data=1,model=2")
    assert_same_numbers(loaded, model)
    assert is_within(loaded.embed_in.weight, saved / "model.safetensors")


@pytest.mark.parametrize("by", [8, 16, 32])
def test_what_is_not_aligned_for_jax_is_read(saved: Path, model: GPTNeoX, by: int) -> None:
    moved(saved, by)
    loaded = load(saved)
    assert_same_numbers(loaded, model)
    assert not ranges(saved / "model.safetensors")


def test_large_matrices_that_are_not_aligned_are_read_too(tmp_path: Path) -> None:
    config = GPTNeoXConfig.from_hf({**CONFIG.to_hf(), "vocab_size": 20_000})
    model = GPTNeoX.init(config, dtype=jnp.dtype("bfloat16"), key=jax.random.key(1))
    assert model.embed_in.weight.nbytes > place._HUGE
    save(model, tmp_path / "saved", ())
    moved(tmp_path / "saved", 8)
    assert_same_numbers(load(tmp_path / "saved"), model)


def test_torch_files_stay_in_place_too(saved: Path, model: GPTNeoX) -> None:
    tensors = {
        entry.name: torch.tensor(entry.read(tuple(slice(None) for _ in entry.shape)).view("i2"))
        for entry in read_file(saved / "model.safetensors")
    }
    path = rewrite_as_bin(
        saved, {name: tensor.view(torch.bfloat16) for name, tensor in tensors.items()}
    )
    loaded = load(saved)
    assert_same_numbers(loaded, model)
    assert is_within(loaded.embed_in.weight, path)


def test_what_is_cast_or_stacked_is_read(saved: Path) -> None:
    loaded = load(saved, dtype="float16"), load(saved, stacked=True).layers
    assert not any(is_within(leaf, saved / "model.safetensors") for leaf in jax.tree.leaves(loaded))


def test_donated_parameters_leave_the_file_alone(saved: Path) -> None:
    path = saved / "model.safetensors"
    before = path.read_bytes()
    loaded = load(saved)
    expected = np.asarray(loaded.embed_in.weight, np.float32) + 1
    changed = jax.jit(lambda model: jax.tree.map(lambda x: x + 1, model), donate_argnums=0)(loaded)
    np.testing.assert_array_equal(
        np.asarray(changed.embed_in.weight, np.float32),
        expected.astype(changed.embed_in.weight.dtype).astype(np.float32),
    )
    assert not any(is_within(leaf, path) for leaf in jax.tree.leaves(changed))
    assert path.read_bytes() == before


def test_a_file_that_is_replaced_stays_as_it_was(saved: Path, model: GPTNeoX) -> None:
    loaded, path = load(saved), saved / "model.safetensors"
    other = saved / "other"
    other.write_bytes(bytes(path.stat().st_size))
    os.replace(other, path)
    assert_same_numbers(loaded, model)


def test_a_file_that_became_shorter_is_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    entry = next(entry for entry in read_file(path) if entry.name == MATRIX)
    assert mapped.mapped(entry, WHOLE) is not None
    os.truncate(path, entry.start + 1000)
    with pytest.raises(InputError, match=f"ends within {MATRIX}; get the file again"):
        mapped.mapped(entry, WHOLE)


def test_files_of_no_local_disk_are_read() -> None:
    assert not mapped.is_local(Path("/proc/self/status"))
    assert mapped.is_local(Path(__file__))


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index("RssAnon:") + 1])


def test_mapped_parameters_take_no_memory_of_the_process(tmp_path: Path) -> None:
    config = GPTNeoXConfig.from_hf({**CONFIG.to_hf(), "vocab_size": 100_000})
    leaves = parameters(model_shapes(config, jnp.dtype("float16"), stacked=False))
    header = encode_header([(leaf.names[0], leaf.shape, np.dtype("f2")) for leaf in leaves])
    (tmp_path / "model.safetensors").write_bytes(header)
    total = sum(leaf.nbytes for leaf in leaves)
    os.truncate(tmp_path / "model.safetensors", len(header) + total)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    before = anonymous_bytes()
    loaded = load(tmp_path)
    assert all(np.asarray(leaf).sum() == 0 for leaf in jax.tree.leaves(loaded))  # all is read
    assert total > 50e6
    assert anonymous_bytes() - before < 10e6
