"""A checkpoint in 16 bits keeps its matrices in them on a CPU, and computes as if in float32."""

import copy
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.save import save
from neox_eqx.model.neox import GPTNeoX
from tests.checkpoint.checkpoints import assert_same_bits, rewrite
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import FAMILIES, family, our_logits, padded_batch

# Measured: at most 4e-6 over all families, from sums in another order.
TOLERANCE = 2e-5
DTYPES = ("bfloat16", "float16")


def saved(directory: Path, name: str, dtype: str) -> Path:
    """A family's checkpoint as transformers saves it in 16 bits."""
    theirs, _ = family(name)
    copy.deepcopy(theirs).to(getattr(torch, dtype)).save_pretrained(directory)
    return directory


def dtypes(model: GPTNeoX) -> tuple[set[str], set[str]]:
    """Those of the matrices, and those of the vectors."""
    arrays = jax.tree.leaves(model)
    stacked = int(model.stacked)
    of_layers = set(map(id, jax.tree.leaves(model.layers)))
    is_matrix = [array.ndim - (stacked if id(array) in of_layers else 0) > 1 for array in arrays]
    matrices = {str(a.dtype) for a, matrix in zip(arrays, is_matrix, strict=True) if matrix}
    vectors = {str(a.dtype) for a, matrix in zip(arrays, is_matrix, strict=True) if not matrix}
    return matrices, vectors


def some(*names: str) -> list:
    """All families, of which `make test` takes these."""
    return [
        name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES
    ]


@pytest.mark.parametrize("name", some("gpt-neox-20b", "redpajama-3b", "line-3.6b"))
def test_every_family_has_the_logits_and_tokens_of_float32_weights(
    name: str, tmp_path: Path
) -> None:
    dtype = DTYPES[list(FAMILIES).index(name) % 2]
    directory = saved(tmp_path / "model", name, dtype)
    model, exact = load(directory), load(directory, dtype="float32")
    assert dtypes(model) == ({dtype}, {"float32"}) and model.dtype == jnp.float32
    assert dtypes(exact) == ({"float32"}, {"float32"})
    ids, valid = padded_batch(model.config.vocab_size)
    expected = our_logits(exact, ids, valid)[valid]
    np.testing.assert_allclose(
        our_logits(model, ids, valid)[valid], expected, atol=TOLERANCE, rtol=0
    )
    prompts = random_prompts(model.config.vocab_size, (5, 1, 9))
    requests = [request(prompt, max_new_tokens=8) for prompt in prompts]
    assert tokens(ours(model, requests)) == tokens(ours(exact, requests))


@pytest.mark.parametrize("mesh", ["data=2,model=4", "data=4,model=2,layout=2d"])
def test_scanned_layers_and_a_mesh_have_the_same_tokens(mesh: str, tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "pythia-70m", "bfloat16")
    exact, model = load(directory), load(directory, stacked=True, mesh=mesh)
    assert dtypes(model) == dtypes(exact) == ({"bfloat16"}, {"float32"})
    requests = [request(prompt, max_new_tokens=8) for prompt in random_prompts(96, (5, 1, 9))]
    assert tokens(ours(model, requests)) == tokens(ours(exact, requests))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_saved_again_is_the_file_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "line-3.6b", dtype)
    save(load(directory), tmp_path / "again", companions=())
    expected = load_file(directory / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert expected.keys() <= again.keys()
    for name, tensor in expected.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].view(torch.int16).equal(tensor.view(torch.int16)), name


def test_what_was_changed_in_float32_is_saved_without_being_rounded(tmp_path: Path) -> None:
    model = load(saved(tmp_path / "model", "pythia-70m", "bfloat16"))
    third = jax.tree.map(lambda x: x / 3, model.final_layer_norm)
    changed = dataclasses.replace(model, final_layer_norm=third)
    save(changed, tmp_path / "again", companions=())
    assert_same_bits(load(tmp_path / "again").final_layer_norm, third)


def test_a_tensor_in_float32_among_those_of_16_bits_loses_nothing(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", "pythia-70m", "bfloat16")
    tensors = load_file(directory / "model.safetensors")
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    tensors[name] = tensors[name].float() / 3
    rewrite(directory, tensors)
    for stacked in (False, True):
        model = load(directory, stacked=stacked)
        assert dtypes(model)[0] == {"bfloat16", "float32"}
        weight = model.layers.mlp if stacked else model.layers[1].mlp
        held = np.asarray(weight.dense_h_to_4h.weight, np.float32)
        np.testing.assert_array_equal(held[1] if stacked else held, tensors[name].numpy())
