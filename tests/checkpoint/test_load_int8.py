"""A float checkpoint loaded in int8 is the float model rounded, without ever being all there."""

import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from neox_eqx.checkpoint import entry
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.save import save
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.formats import is_quantized, quantized
from neox_eqx.model.neox import GPTNeoX
from tests.checkpoint.checkpoints import assert_same_bits, edit_config, rewrite, rewrite_as_bin
from tests.unchecked import unchecked

HEAD = "embed_out.weight"
DENSE = "gpt_neox.layers.1.attention.dense.weight"
NORM = "gpt_neox.final_layer_norm.bias"
Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_loaded_is_the_float_model_rounded(checkpoint: Path, stacked: bool) -> None:
    expected = quantized(load(checkpoint, stacked=stacked))
    assert_same_bits(load(checkpoint, stacked=stacked, quantize="int8"), expected)


@pytest.mark.parametrize("stacked", [False, True])
def test_blocks_of_a_tensor_are_rounded_as_the_whole(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    expected = quantized(load(checkpoint, stacked=stacked))
    monkeypatch.setattr(entry, "BLOCK_ELEMENTS", 7 * 48)
    assert_same_bits(load(checkpoint, stacked=stacked, quantize="int8"), expected)


def test_a_bin_file_is_rounded_too(checkpoint: Path, tensors: Tensors) -> None:
    expected = quantized(load(checkpoint))
    rewrite_as_bin(checkpoint, tensors)
    assert_same_bits(load(checkpoint, quantize="int8"), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_once_and_all_else_is_in_its_dtype(
    checkpoint: Path, dtype: str
) -> None:
    """From the file's own values: to bfloat16 and then to int8 would be to round twice."""
    model = load(checkpoint, dtype=dtype, quantize="int8")
    exact = load(checkpoint, quantize="int8")
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(exact), strict=True):
        if other.dtype == jnp.int8:
            np.testing.assert_array_equal(one, other)
    head, block = model.embed_out, model.layers[1]
    assert head is not None and head.scale is not None
    assert head.scale.dtype == jnp.float32 and block.mlp.dense_4h_to_h.scale is not None
    assert {model.embed_in.weight.dtype, block.attention.dense.bias.dtype} == {jnp.dtype(dtype)}
    assert {model.dtype, block.input_layernorm.weight.dtype} == {jnp.dtype(dtype)}


def test_rows_of_zeros_stay_zeros(checkpoint: Path, tensors: Tensors) -> None:
    tensors[DENSE][3:5] = 0
    rewrite(checkpoint, tensors)
    dense = load(checkpoint, quantize="int8").layers[1].attention.dense
    y = np.asarray(dense.product(jnp.full((2, 48), 1e30)))
    assert (y[:, 3:5] == 0).all() and np.isfinite(y).all() and (y[:, 5] != 0).all()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_an_error_that_names_its_tensor(
    checkpoint: Path, tensors: Tensors, bad: float, stacked: bool
) -> None:
    tensors[DENSE][5, 7] = bad
    rewrite(checkpoint, tensors)
    with pytest.raises(InputError) as caught:
        load(checkpoint, stacked=stacked, quantize="int8")
    assert f"model.safetensors: {DENSE} holds NaN or infinity, which int8 has not" in str(
        caught.value
    )
    load(checkpoint, stacked=stacked)


def test_what_float32_cannot_hold_is_such_an_error_too(checkpoint: Path, tensors: Tensors) -> None:
    tensors[DENSE] = tensors[DENSE].double()
    tensors[DENSE][0, 0] = 1e300
    rewrite(checkpoint, tensors)
    with pytest.raises(InputError, match="holds NaN or infinity"):
        load(checkpoint, quantize="int8")


def test_nan_where_all_stays_float_is_loaded_as_it_is(checkpoint: Path, tensors: Tensors) -> None:
    tensors[NORM][3] = torch.nan
    rewrite(checkpoint, tensors)
    assert np.isnan(load(checkpoint, quantize="int8").final_layer_norm.bias[3])


def test_a_tied_head_stays_float(checkpoint: Path, tensors: Tensors) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    del tensors[HEAD]
    rewrite(checkpoint, tensors)
    model = load(checkpoint, quantize="int8")
    assert model.embed_out is None and is_quantized(model)
    np.testing.assert_array_equal(
        model.embed_in.weight, tensors["gpt_neox.embed_in.weight"].numpy()
    )
    hidden = jax.random.normal(jax.random.key(0), (3, 48))
    np.testing.assert_array_equal(model.logits(hidden), load(checkpoint).logits(hidden))


@pytest.mark.parametrize("wrong", ["int3", "", "INT8"])
def test_another_kind_is_refused_in_one_line(checkpoint: Path, wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        load(checkpoint, quantize=wrong)
    assert f"quantize {wrong!r} is not supported; it is int8" in str(caught.value)


def test_a_quantised_model_is_not_saved(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantised model is not saved; load it without quantize"):
        save(load(checkpoint, quantize="int8"), tmp_path / "new", companions=())
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 6.4 MB, of which a quarter of a megabyte is a large part."""
    directory = tmp_path_factory.mktemp("larger")
    config = GPTNeoXConfig(96, 256, 2, 4, 1024)
    save(GPTNeoX.init(config, key=jax.random.key(0)), directory / "model", companions=())
    return directory / "model"


def largest_while_loading(directory: Path, quantize: str | None) -> tuple[int, int]:
    """The most that NumPy held beside what is there in the end; and that."""
    tracemalloc.start()
    with unchecked():  # checks of shapes take memory too
        model = load(directory, quantize=quantize)
    jax.block_until_ready(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    return peak - held, held


def test_no_float_copy_of_the_model_is_in_memory(
    larger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "BLOCK_ELEMENTS", 8 * 1024)
    # Once for what tracing the shapes leaves behind.
    load(larger, quantize="int8")
    beside, held = largest_while_loading(larger, "int8")
    assert held < 0.3 * (larger / "model.safetensors").stat().st_size
    # A block is 32 KB, and some of them are there at a time.
    assert beside < 400_000
    _, held_as_float = largest_while_loading(larger, None)
    assert held_as_float > 3.5 * held


def test_a_file_that_is_one_block_would_be_noticed(larger: Path) -> None:
    """Control: a whole tensor of 1 MB at a time, and what is made of it, is above the bound."""
    load(larger, quantize="int8")
    assert largest_while_loading(larger, "int8")[0] > 2_000_000


def test_the_shapes_of_a_quantised_model_are_those_that_are_loaded(checkpoint: Path) -> None:
    config = GPTNeoXConfig.from_file(checkpoint / "config.json")
    for stacked in (False, True):
        shapes = model_shapes(config, jnp.dtype("bfloat16"), stacked=stacked, quantize="int8")
        model = load(checkpoint, dtype="bfloat16", stacked=stacked, quantize="int8")
        assert jax.tree.structure(shapes) == jax.tree.structure(model)
        assert [(one.shape, one.dtype) for one in jax.tree.leaves(shapes)] == [
            (one.shape, one.dtype) for one in jax.tree.leaves(model)
        ]
