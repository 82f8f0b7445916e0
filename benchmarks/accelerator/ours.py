"""This package on an accelerator: tokens, generation, long prompts, a step of training."""

import dataclasses
import statistics
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx import DEMO_MODEL, GPTNeoX, GPTNeoXConfig, load
from neox_eqx.benchmarking.random_model import random_model
from neox_eqx.cli import benchmark
from neox_eqx.presets import PRESETS
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.dataset import Rows, to_devices
from neox_eqx.training.run.report import flops_per_token
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step

Form = Literal["int8", "int4"] | None


def equal_tokens(count: int) -> float:
    """The share of the demo model's greedy tokens that are those of this machine's CPU."""
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            model = load(DEMO_MODEL, dtype="float32")
            prompts = np.random.default_rng(0).integers(1, model.config.vocab_size, (8, 32))
            options = benchmark.Options(batch_size=8, prompt_len=32, gen_len=count)
            found.append(benchmark.ours(model, prompts, options, 32 + count).tokens)
    return float(np.mean(found[0] == found[1]))


def generation(
    model: GPTNeoX, *, batch_size: int, prompt_len: int, gen_len: int, rounds: int
) -> dict[str, Any]:
    """Median seconds of prefill and of one step of decode, and the bytes that a step reads."""
    options = benchmark.Options(batch_size=batch_size, prompt_len=prompt_len, gen_len=gen_len)
    prompts = np.random.default_rng(0).integers(
        1, model.config.vocab_size, (batch_size, prompt_len)
    )
    timed = [
        benchmark.ours(model, prompts, options, prompt_len + gen_len) for _ in range(rounds + 1)
    ][1:]
    step = statistics.median(one.decode for one in timed) / (gen_len - 1)
    return {
        "prefill_seconds": statistics.median(one.prefill for one in timed),
        "step_seconds": step,
        "tokens_per_second": batch_size / step,
        "step_bytes": _read_in_a_step(model) + timed[0].cache_bytes,
    }


def model_of(name: str, form: Form) -> GPTNeoX:
    """Random weights of a preset's shape, in this form or in 16 bits."""
    return random_model(name, dtype=None, quantize=form, cache_bits=None)


def _read_in_a_step(model: GPTNeoX) -> int:
    """Bytes of all parameters but the embedding, of which a step reads single rows."""
    embedding = 0 if model.embed_out is None else model.embed_in.weight.nbytes
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model)) - embedding


def training(
    config: GPTNeoXConfig, *, batch_size: int, length: int, steps: int, rate: float
) -> dict[str, Any]:
    """Median seconds of a step in bfloat16, and its products as a share of `rate`, operations a
    second."""
    recipe = Recipe(steps=steps + 1, compute_dtype="bfloat16")
    mesh = make_mesh(config, "data=1,model=1")
    init = jax.jit(lambda key: GPTNeoX.init(config, stacked=True, key=key))
    state = TrainState.start(dataclasses.replace(init(jax.random.key(0)), mesh=mesh), recipe)
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=(batch_size, length))
    whole = np.ones_like(tokens, np.int32), np.ones(tokens.shape, np.float32)
    batch = to_devices(Rows(tokens.astype(np.int32), *whole), mesh)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = train_step(state, batch, recipe)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds[1:])
    tokens_per_second = batch_size * length / step
    return {
        "step_seconds": step,
        "tokens_per_second": tokens_per_second,
        "share_of_matrix_rate": tokens_per_second * flops_per_token(config, length) / rate,
        "loss": float(metrics.loss),
    }


def with_positions(name: str, count: int) -> GPTNeoX:
    """A model of a preset's shape with room for so many positions."""
    config = dataclasses.replace(PRESETS[name], max_position_embeddings=count)
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    init = jax.jit(lambda key: GPTNeoX.init(config, dtype=dtype, stacked=True, key=key))
    return init(jax.random.key(0))
