"""A model as a file of llama.cpp, read by llama.cpp's own reader."""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest

from neox_eqx import PRESETS, GPTNeoX, InputError
from neox_eqx.benchmarking.gguf_file import FORMS, write_gguf
from neox_eqx.model.formats import quantized
from neox_eqx.rope import RopeParameters

CONFIG = dataclasses.replace(
    PRESETS["pythia-14m"],
    vocab_size=50,
    hidden_size=64,
    num_attention_heads=4,
    num_hidden_layers=2,
    intermediate_size=96,
)
# Half a step, as a part of the largest number of 32; of 4 bits, which are -8 to 7, a whole one.
OFF = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 0.51 / 127, "int4": 1.01 / 8}


@pytest.mark.parametrize("form", FORMS)
def test_llama_cpps_reader_finds_the_numbers_in_the_form(form: str, tmp_path: Path) -> None:
    model = GPTNeoX.init(CONFIG, key=jax.random.key(0))
    write_gguf(model, tmp_path / "model.gguf", form)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert len(read) == 2 * 12 + 4  # a layer has 4 matrices and 2 norms with a bias each
    ours = model.layers[1].mlp.dense_4h_to_h
    theirs = read["blk.1.ffn_down.weight"]
    assert theirs.tensor_type.name == FORMS[form]
    numbers = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
    wide = np.asarray(ours.weight)
    assert abs(numbers - wide).max() <= OFF[form] * abs(wide).max()
    np.testing.assert_array_equal(read["blk.1.ffn_down.bias"].data, ours.bias)


def test_queries_of_all_heads_stand_before_the_keys(tmp_path: Path) -> None:
    model = GPTNeoX.init(CONFIG, key=jax.random.key(0))
    write_gguf(model, tmp_path / "model.gguf", "float32")
    read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    ours = np.asarray(model.layers[0].attention.query_key_value.weight)
    of_head = ours.reshape(4, 3, 16, 64)
    queries, keys, values = read["blk.0.attn_qkv.weight"].reshape(3, 4, 16, 64)
    for kind, theirs in enumerate((queries, keys, values)):
        np.testing.assert_array_equal(theirs, of_head[:, kind])


def test_a_tied_head_is_written_as_it_is(tmp_path: Path) -> None:
    tied = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    model = GPTNeoX.init(tied, key=jax.random.key(0))
    write_gguf(model, tmp_path / "model.gguf", "float16")
    read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    np.testing.assert_array_equal(read["output.weight"], read["token_embd.weight"])


@pytest.mark.parametrize(
    "other",
    [
        {"hidden_act": "quick_gelu"},
        {"rope_parameters": RopeParameters("linear", factor=2.0)},
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    other: dict[str, Any], tmp_path: Path
) -> None:
    model = GPTNeoX.init(dataclasses.replace(CONFIG, **other), key=jax.random.key(0))
    with pytest.raises(InputError, match="with gelu and unscaled positions alone"):
        write_gguf(model, tmp_path / "model.gguf", "float32")
    assert not list(tmp_path.iterdir())


def test_weights_in_few_bits_are_not_rounded_again(tmp_path: Path) -> None:
    model = quantized(GPTNeoX.init(CONFIG, key=jax.random.key(0)), "int8")
    with pytest.raises(InputError, match="weights are in few bits"):
        write_gguf(model, tmp_path / "model.gguf", "int8")
