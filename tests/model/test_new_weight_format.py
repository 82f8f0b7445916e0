"""A form of weights that nothing else knows: what is written here is all that it takes."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Float32, Int8

from neox_eqx.checkpoint.load import load
from neox_eqx.model.formats import quantized
from neox_eqx.model.linear import Linear, project
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.quantized import Numbers, QuantizedLinear
from neox_eqx.planning.attempts import Compiler
from neox_eqx.planning.chips import Topology
from neox_eqx.planning.message import Answer, Question, Workload
from neox_eqx.planning.wish import Wish
from neox_eqx.presets import PRESETS, parameter_count
from tests.checkpoint.checkpoints import assert_same_bits
from tests.generation.completions import ours, random_prompts, request, tokens
from tests.hf_models import config_json, hf_model, our_logits, padded_batch

GROUP = 64


class Groups8(QuantizedLinear):
    """8 bits with a scale for each 64 values of a row."""

    weight: Int8[Array, "*L out in"]
    scale: Float32[Array, "*L out in/64"]
    name: ClassVar[str] = "groups8"

    @classmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        groups = weight.reshape(*weight.shape[:-1], -1, GROUP)
        scale = (abs(groups).max(-1) * (1 / 127)).clip(1e-30)
        rounded = (groups / scale[..., None]).round().astype(np.int8)
        return {"weight": rounded.reshape(weight.shape), "scale": scale}

    @classmethod
    def values(cls, arrays: dict[str, Numbers]) -> Numbers:
        weight, scale = arrays["weight"], arrays["scale"]
        groups = weight.reshape(*scale.shape, GROUP).astype(np.float32)
        return (groups * scale[..., None]).reshape(weight.shape)

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return project(x, self.dense().astype(x.dtype))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers saved, with groups of very different size in each row."""
    place = tmp_path_factory.mktemp("saved")
    theirs = hf_model(config_json(64, 4, rotary_pct=0.25, use_parallel_residual=True))
    for layer in theirs.gpt_neox.layers:
        layer.mlp.dense_4h_to_h.weight.data[:, :GROUP] *= 30
    theirs.save_pretrained(place)
    return place


def as_float(model: GPTNeoX) -> GPTNeoX:
    """The float model with the values that the rounded one stands for, worked out by NumPy."""

    def of_node(node: object) -> object:
        if not isinstance(node, Groups8):
            return node
        scale = np.repeat(np.asarray(node.scale), GROUP, axis=-1)
        return Linear(
            jnp.asarray(np.asarray(node.weight, np.float32) * scale), node.bias, node.axes
        )

    return jax.tree.map(of_node, model, is_leaf=lambda node: isinstance(node, Groups8))


@pytest.mark.parametrize("stacked", [False, True])
def test_it_loads(directory: Path, stacked: bool) -> None:
    model = load(directory, stacked=stacked, quantize=Groups8)
    exact = load(directory, stacked=stacked)
    assert_same_bits(model, quantized(exact, Groups8))
    ids, valid = padded_batch(96)
    logits = our_logits(model, ids, valid)
    # Measured 3e-6.
    rounded = our_logits(as_float(model), ids, valid)
    np.testing.assert_allclose(logits[valid], rounded[valid], atol=2e-5)
    true = our_logits(exact, ids, valid)
    assert 1e-3 < np.abs(logits - true)[valid].max() < 0.05 * np.abs(true).max()


@pytest.mark.parametrize("mesh", ["data=2,model=4", "data=4,model=2,layout=2d"])
def test_it_shards_and_generates(directory: Path, mesh: str) -> None:
    alone, many = load(directory, quantize=Groups8), load(directory, mesh=mesh, quantize=Groups8)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(one, other)
    linear = many.layers[0].mlp.dense_4h_to_h
    (share,) = {shard.data.shape for shard in linear.weight.addressable_shards}
    assert np.prod(share) < linear.weight.size
    assert {shard.data.shape for shard in linear.scale.addressable_shards} == {
        (share[0], share[1] // GROUP)
    }
    prompts = random_prompts(96, [3, 9, 5, 4])
    requests = [request(prompt, max_new_tokens=8) for prompt in prompts]
    expected = tokens(ours(as_float(alone), requests))
    assert tokens(ours(alone, requests)) == expected
    assert tokens(ours(many, requests)) == expected


def test_it_is_planned() -> None:
    """By the TPU's own compiler, in a process that has to find this class."""
    config = dataclasses.replace(PRESETS["pythia-70m"], num_hidden_layers=2)
    load = Workload(batch_size=1, prompt_len=32, gen_len=32)
    with Compiler() as compiler:
        plain, rounded = (
            Answer.from_json(
                compiler.ask(
                    Question(
                        "v5e:2x2", "model=4", "decode", load, config, "bfloat16", form
                    ).to_json()
                )
            )
            for form in (None, Groups8)
        )
    # Of 16 bits there are 8 and a 64th of 32, in all but the embedding, which stays as it is.
    embedding, whole = config.vocab_size * config.hidden_size, parameter_count(config)
    ratio = (embedding * 2 + (whole - embedding) * (1 + 4 / GROUP)) / (whole * 2)
    assert rounded.weights_bytes / plain.weights_bytes == pytest.approx(ratio, rel=0.01)
    assert rounded.facts is not None and rounded.facts.all_reduce_per_layer == 1
    assert rounded.facts.flops == plain.facts.flops


def test_a_wish_counts_its_bytes() -> None:
    sizes = {"batch_size": 1, "prompt_len": 32, "gen_len": 32, "mesh": "model=4"}
    wish = Wish(PRESETS["pythia-70m"], Topology.parse("v5e:2x2"), quantize=Groups8, **sizes)
    assert wish.weight_bytes() == int(parameter_count(wish.config) * (1 + 4 / GROUP))
