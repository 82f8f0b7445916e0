"""A model of a preset's shape with random weights, as `load` would make it of a checkpoint."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.memory import free_bytes
from neox_eqx.model.formats import quantized
from neox_eqx.model.int8_cache import cache_of
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.presets import preset
from neox_eqx.sizes import size_text


def random_model(
    name: str,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] | None,
    quantize: Literal["int8", "int4"] | None,
    cache_bits: Literal[8] | None,
) -> GPTNeoX:
    """The same weights at each call; without a dtype matrices in float16 on a CPU, as most
    checkpoints have them, and all in bfloat16 on an accelerator.

    Raises:
        InputError: there is no such preset, or no memory for it.
    """
    on_cpu = jax.default_backend() == "cpu"
    as_stored = on_cpu and dtype is None
    own = dtype or ("float16" if on_cpu else "bfloat16")
    config = preset(name)

    @jax.jit
    def init(key: PRNGKeyArray) -> GPTNeoX:
        model = GPTNeoX.init(config, dtype=jnp.dtype(own), stacked=not on_cpu, key=key)
        if as_stored:
            model = jax.tree.map(lambda x: x if x.ndim > 1 else x.astype(jnp.float32), model)
        model = dataclasses.replace(model, cache=cache_of(cache_bits))
        return quantized(model, quantize) if quantize else model

    key = jax.random.key(0)
    shapes = jax.eval_shape(init, key)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    free = free_bytes(shapes)
    if needed > free:
        raise InputError(
            f"--preset {name}: its parameters take {size_text(needed)} in {own}, and "
            f"{size_text(free)} of memory are free; take a smaller preset, or --quantize int8"
        )
    return init(key)
