"""Hashes of all that rows come from, by which a run that goes on knows rows as its own."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, UInt32

from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.rules import constrain
from neox_eqx.text.generator import TextGenerator

_MIX = 0x9E3779B1
"""An odd number whose bits have no pattern: 2**32 divided by the golden ratio."""


def subject_of_completions(
    generator: TextGenerator, prompts: Sequence[str], requests: Sequence[Request]
) -> dict[str, str]:
    """All that the completions of these requests come from; `prompts` are their texts.

    Which requests run together is not part of it: that may change where memory was short.
    """
    own = [(prompt, request.tokens) for prompt, request in zip(prompts, requests, strict=True)]
    return {
        **subject_of_model(generator.model),
        "tokenizer": digest([generator.tokenizer.to_str()]),
        "soft prompt": digest(_checksums(generator.past, generator.model.mesh)),
        "list of prompts": digest(own),
        "set of EOS ids": digest([generator.eos_token_ids]),
        "mask_unknown_tokens": str(generator.mask_unknown_tokens),
        "bitwise": str(generator.bitwise),
        **{
            field.name: _of_each([getattr(request.options, field.name) for request in requests])
            for field in dataclasses.fields(ResolvedOptions)
        },
    }


def subject_of_model(model: GPTNeoX) -> dict[str, str]:
    """A model's config and every bit of its parameters, wherever they came from and lie."""
    return {
        "model": digest([model.config, *_checksums(model, model.mesh)]),
        "dtype": str(model.dtype),
    }


def digest(values: Iterable[object]) -> str:
    """A hash of the values' `repr`."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _of_each(values: Sequence[object]) -> str:
    """A hash of values, or of one where all are equal: the prompts tell how many there are."""
    return digest(values[:1] if all(value == values[0] for value in values) else values)


def _checksums(tree: Any, mesh: Mesh | None) -> list[int]:
    """A checksum of each array: a sum of whole numbers, the same in any order of adding."""
    leaves = jax.tree.leaves(tree)
    return np.asarray(_sums(leaves, mesh)).tolist() if leaves else []


@partial(jax.jit, static_argnums=1)
def _sums(leaves: list[Array], mesh: Mesh | None) -> UInt32[Array, " N"]:
    def checksum(x: Array) -> UInt32[Array, ""]:
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        bits = lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
        while bits.ndim:
            # Weighted, so that another order within an axis, or of the axes, gives another sum.
            weight = 2 * lax.iota(jnp.uint32, bits.shape[-1]) + 1
            bits = ((bits ^ bits >> 15) * jnp.uint32(_MIX) * weight).sum(-1, dtype=jnp.uint32)
        return bits

    return constrain(jnp.stack([checksum(x) for x in leaves]), mesh)
