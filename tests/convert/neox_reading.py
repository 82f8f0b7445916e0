"""Reading EleutherAI checkpoints in tests: the models, and what is read held against them."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.neox.read import NeoxOptions, read_neox
from neox_eqx.convert.source import Source
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from tests.convert.neox_checkpoints import NeoX, neox
from tests.hf_models import config_json, hf_logits, hf_model, our_logits, padded_batch


@functools.cache
def eight_heads(parallel: bool, tied: bool = False) -> GPTNeoXForCausalLM:
    """transformers' model, with eight heads for eight ranks. Shared: do not alter it."""
    return hf_model(
        config_json(
            64,
            8,
            rotary_pct=0.25,
            intermediate_size=96,
            use_parallel_residual=parallel,
            tie_word_embeddings=tied,
        )
    )


def read(source: Source) -> dict[str, np.ndarray]:
    return {
        entry.name: entry.read(tuple(slice(None) for _ in entry.shape)) for entry in source.entries
    }


def assert_same_bits(ours: dict[str, np.ndarray], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.uint16)
        assert ours[name].shape == tuple(tensor.shape), name
        assert ours[name].tobytes() == tensor.numpy().tobytes(), name


def logits(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Our logits of a batch, and the mask of what is real in it."""
    config = GPTNeoXConfig.from_hf(source.config_json)
    tensors = read(source)
    shapes = model_shapes(config, np.dtype(np.float32), stacked=False)

    def place(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        array = tensors[name if name == "embed_out.weight" else f"gpt_neox.{name}"]
        return jax.numpy.asarray(array)

    ours: GPTNeoX = jax.tree_util.tree_map_with_path(place, shapes)
    tokens, valid = padded_batch(config.vocab_size)
    return our_logits(ours, tokens, valid), valid


def assert_same_logits(source: Source, theirs: GPTNeoXForCausalLM) -> None:
    ours, valid = logits(source)
    np.testing.assert_allclose(ours[valid], expected_logits(theirs)[valid], atol=2e-5, rtol=0)


@functools.cache
def expected_logits(theirs: GPTNeoXForCausalLM) -> np.ndarray:
    return hf_logits(theirs, *padded_batch(theirs.config.vocab_size))


@functools.cache
def small_model(parallel: bool) -> GPTNeoXForCausalLM:
    """A model to spoil checkpoints of. Shared: do not alter it."""
    return hf_model(config_json(48, 4, rotary_pct=0.25, use_parallel_residual=parallel))


def checkpoint(*, ranks: int = 2, parallel: bool = True) -> NeoX:
    """A checkpoint to spoil."""
    return neox(small_model(parallel), ranks)


def refusal(root: Path, **options: Any) -> str:
    """The one line in which reading this is refused."""
    with pytest.raises(InputError) as error:
        read_neox(root, NeoxOptions(**options))
    message = str(error.value)
    assert message.isprintable()
    return message
