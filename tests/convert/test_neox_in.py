"""EleutherAI checkpoints are read as the model that transformers has, in every form they take."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.neox.read import NeoxOptions, read_neox
from tests.convert.neox_checkpoints import neox, state_dict
from tests.convert.neox_reading import assert_same_bits, assert_same_logits, eight_heads, read
from tests.hf_models import config_json, hf_model

SUMMED = ("attention.dense.bias", "dense_4h_to_h.bias")


@pytest.mark.parametrize("names", ["legacy", "new", "transformer engine"])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_tensors_and_logits_are_those_of_transformers(
    tmp_path: Path, parallel: bool, tied: bool, layout: str, ranks: int, names: str
) -> None:
    theirs = eight_heads(parallel, tied)
    checkpoint = neox(theirs, ranks, names)
    source = read_neox(checkpoint.write(tmp_path / "neox", layout))
    ours, expected = read(source), state_dict(theirs)
    assert list(ours) == list(expected)
    for name, tensor in expected.items():
        # Summands are rounded, each on its own.
        if parallel and ranks > 1 and name.endswith(SUMMED):
            np.testing.assert_allclose(ours.pop(name), tensor.numpy(), atol=1e-6, rtol=0)
    assert_same_bits(ours, {name: expected[name] for name in ours})
    config = GPTNeoXConfig.from_hf(source.config_json)
    assert (config.use_parallel_residual, config.tie_word_embeddings) == (parallel, tied)
    assert (config.vocab_size, config.intermediate_size) == (96, 96)
    assert_same_logits(source, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_summands_are_added_in_float32_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = neox(eight_heads(parallel=True), ranks=4)
    for modules in checkpoint.ranks:
        modules[2]["attention.dense.bias"] = modules[2]["attention.dense.bias"].to(dtype)
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    first, *others = [modules[2]["attention.dense.bias"] for modules in checkpoint.ranks]
    expected = sum((other.float() for other in others), first.float()).to(dtype)
    name = "gpt_neox.layers.0.attention.dense.bias"
    assert_same_bits({name: read(source)[name]}, {name: expected})


@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_each_tensor_keeps_its_dtype_and_odd_bits(tmp_path: Path, layout: str) -> None:
    """A NaN with a payload, a negative zero, a subnormal number."""
    checkpoint = neox(eight_heads(parallel=True), ranks=1)
    expected = state_dict(eight_heads(parallel=True))
    odd = torch.tensor([0x7FA1, -0x8000, 0x0001], dtype=torch.int16)
    for name, dtype in (("norm.weight", torch.float16), ("norm.bias", torch.bfloat16)):
        tensor = checkpoint.ranks[0][5][name].to(dtype)
        tensor[:3] = odd.view(dtype)
        checkpoint.ranks[0][5][name] = expected[f"gpt_neox.final_layer_{name}"] = tensor
    assert_same_bits(read(read_neox(checkpoint.write(tmp_path / "x", layout))), expected)


def test_a_part_is_the_part_of_the_whole(tmp_path: Path) -> None:
    source = read_neox(
        neox(eight_heads(parallel=True), ranks=4).write(tmp_path / "x", "sequential")
    )
    whole = read(source)
    for entry in source.entries:
        for rows in (slice(None), slice(20, 50), slice(0, 1), slice(7, 7)):
            for columns in (slice(None), slice(15, 33), slice(3, 3)):
                index = (rows, columns)[: len(entry.shape)]
                np.testing.assert_array_equal(entry.read(index), whole[entry.name][index])


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
def test_grouped_keys_and_values_are_spread_to_their_heads(
    tmp_path: Path, layout: str, ranks: int
) -> None:
    """Two keys and values for eight heads: transformers gets each of them four times."""
    theirs = hf_model(config_json(64, 8, rotary_pct=1.0, use_parallel_residual=False))
    checkpoint = neox(theirs, ranks)
    for number, layer in enumerate(theirs.gpt_neox.layers, start=2):
        qkv = layer.attention.query_key_value
        for kind, parameter in (("weight", qkv.weight.data), ("bias", qkv.bias.data)):
            heads = parameter.view(8, 3, 8, -1)
            heads[:, 1:] = heads[::4, 1:].repeat_interleave(4, dim=0)
            for rank, of_rank in enumerate(heads.chunk(ranks)):
                kinds = of_rank[:, 0], of_rank[::4, 1], of_rank[::4, 2]
                stored = torch.cat([kind.flatten(0, 1) for kind in kinds])
                stored = stored.clone() if kind == "weight" else stored.flatten().clone()
                checkpoint.ranks[rank][number][f"attention.query_key_value.{kind}"] = stored
    checkpoint.settings["num_kv_heads"] = 2
    source = read_neox(checkpoint.write(tmp_path / "x", layout))
    assert_same_bits(read(source), state_dict(theirs))
    assert_same_logits(source, theirs)


@pytest.mark.parametrize(
    ("parallel", "row_bias", "expected"),
    [
        (True, "auto", "sum"),
        (True, "sum", "sum"),
        (True, "first", "first"),
        (False, "sum", "sum"),
        (False, "first", "first"),
    ],
)
def test_row_bias_chooses_what_to_make_of_copies_that_differ(
    tmp_path: Path, parallel: bool, row_bias: Literal["auto", "sum", "first"], expected: str
) -> None:
    checkpoint = neox(eight_heads(parallel), ranks=2)
    shares = [torch.arange(64.0), torch.arange(64.0) / 2]
    for modules, share in zip(checkpoint.ranks, shares, strict=True):
        modules[3]["mlp.dense_4h_to_h.bias"] = share
    root = checkpoint.write(tmp_path / "x", "pipeline")
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.bias"
    ours = read(read_neox(root, NeoxOptions(row_bias=row_bias)))[name]
    theirs = {"sum": shares[0] + shares[1], "first": shares[0]}[expected]
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_copies_of_a_norm_are_averaged_on_request(tmp_path: Path) -> None:
    checkpoint = neox(eight_heads(parallel=True), ranks=2)
    checkpoint.ranks[1][5]["norm.bias"] += 0.5
    root = checkpoint.write(tmp_path / "x", "sequential")
    ours = read(read_neox(root, NeoxOptions(replicated="mean")))["gpt_neox.final_layer_norm.bias"]
    theirs = eight_heads(parallel=True).gpt_neox.final_layer_norm.bias.detach() + 0.25
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6, rtol=0)


def test_norms_of_transformer_engine_have_a_norm_within(tmp_path: Path) -> None:
    checkpoint = neox(eight_heads(parallel=False), ranks=2)
    for modules in checkpoint.ranks:
        for number, tensors in modules.items():
            modules[number] = {
                re.sub(r"(\w*norm)\.", r"\1.norm.", name): tensor
                for name, tensor in tensors.items()
            }
    checkpoint.settings["norm"] = "te_layernorm"
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    assert_same_bits(read(source), state_dict(eight_heads(parallel=False)))


def test_attention_without_biases(tmp_path: Path) -> None:
    theirs = hf_model(config_json(48, 4, rotary_pct=0.25, attention_bias=False))
    source = read_neox(neox(theirs, ranks=2).write(tmp_path / "x", "sequential"))
    assert_same_logits(source, theirs)
