"""EleutherAI checkpoints are read as the model that transformers has, in every form they take."""

import functools
import random
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.neox_in import read_neox
from neox_eqx.convert.source import Source
from neox_eqx.model.neox import GPTNeoX
from tests.checkpoint.checkpoints import write_json
from tests.convert.neox_checkpoints import neox, state_dict
from tests.hf_models import config_json, hf_logits, hf_model, our_logits, padded_batch

SUMMED = ("attention.dense.bias", "dense_4h_to_h.bias")


@functools.cache
def model(parallel: bool, tied: bool = False) -> GPTNeoXForCausalLM:
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


@pytest.mark.parametrize("names", ["legacy", "new", "transformer engine"])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", ["pipeline", "sequential"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_tensors_and_logits_are_those_of_transformers(
    tmp_path: Path, parallel: bool, tied: bool, layout: str, ranks: int, names: str
) -> None:
    theirs = model(parallel, tied)
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
    checkpoint = neox(model(parallel=True), ranks=4)
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
    checkpoint = neox(model(parallel=True), ranks=1)
    expected = state_dict(model(parallel=True))
    odd = torch.tensor([0x7FA1, -0x8000, 0x0001], dtype=torch.int16)
    for name, dtype in (("norm.weight", torch.float16), ("norm.bias", torch.bfloat16)):
        tensor = checkpoint.ranks[0][5][name].to(dtype)
        tensor[:3] = odd.view(dtype)
        checkpoint.ranks[0][5][name] = expected[f"gpt_neox.final_layer_{name}"] = tensor
    assert_same_bits(read(read_neox(checkpoint.write(tmp_path / "x", layout))), expected)


def test_a_part_is_the_part_of_the_whole(tmp_path: Path) -> None:
    source = read_neox(neox(model(parallel=True), ranks=4).write(tmp_path / "x", "sequential"))
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


TOKENIZERS: dict[str, dict[str, Any]] = {
    "tokenizer.json": {
        "model": {"type": "BPE", "vocab": {f"t{index}": index for index in range(80)}},
        "added_tokens": [{"id": 82, "content": "<|endoftext|>"}, {"id": 81, "content": "<|pad|>"}],
    },
    "gpt2-vocab.json": {"<|endoftext|>": 82, **{f"t{index}": index for index in range(82)}},
}


@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
@pytest.mark.parametrize("tied", [False, True])
def test_padding_of_the_vocabulary_is_cut_on_request(
    tmp_path: Path, tied: bool, tokenizer: str
) -> None:
    theirs = model(parallel=False, tied=tied)
    checkpoint = neox(theirs, ranks=4)
    checkpoint.settings["vocab-file"] = f"/somewhere/else/{tokenizer}"
    root = checkpoint.write(tmp_path / "x", "pipeline")
    write_json(root / tokenizer, TOKENIZERS[tokenizer])
    expected = state_dict(theirs)

    kept = read_neox(root)
    assert kept.config_json["vocab_size"] == 96
    assert_same_bits(read(kept), expected)
    cut = read_neox(root, padded_vocab="cut")
    assert cut.config_json["vocab_size"] == 83
    for name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
        expected |= {name: expected[name][:83].clone()} if name in expected else {}
    assert_same_bits(read(cut), expected)
    for source in (kept, cut):
        assert (source.config_json["bos_token_id"], source.config_json["eos_token_id"]) == (82, 82)
    assert [path.name for path in kept.companions] == [tokenizer][: tokenizer == "tokenizer.json"]


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
    checkpoint = neox(model(parallel), ranks=2)
    shares = [torch.arange(64.0), torch.arange(64.0) / 2]
    for modules, share in zip(checkpoint.ranks, shares, strict=True):
        modules[3]["mlp.dense_4h_to_h.bias"] = share
    root = checkpoint.write(tmp_path / "x", "pipeline")
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.bias"
    ours = read(read_neox(root, row_bias=row_bias))[name]
    theirs = {"sum": shares[0] + shares[1], "first": shares[0]}[expected]
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_copies_of_a_norm_are_averaged_on_request(tmp_path: Path) -> None:
    checkpoint = neox(model(parallel=True), ranks=2)
    checkpoint.ranks[1][5]["norm.bias"] += 0.5
    root = checkpoint.write(tmp_path / "x", "sequential")
    ours = read(read_neox(root, replicated="mean"))["gpt_neox.final_layer_norm.bias"]
    theirs = model(parallel=True).gpt_neox.final_layer_norm.bias.detach() + 0.25
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6, rtol=0)


def test_gpt_neox_has_defaults_of_its_own(tmp_path: Path) -> None:
    """Whole heads rotate, residuals are sequential and the head is the embedding."""
    theirs = hf_model(
        config_json(48, 4, rotary_pct=1.0, use_parallel_residual=False, tie_word_embeddings=True)
    )
    checkpoint = neox(theirs)
    for key in ("rotary-pct", "gpt-j-residual", "no-weight-tying", "layernorm-epsilon", "norm"):
        del checkpoint.settings[key]
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    assert_same_logits(source, theirs)


def test_settings_are_spelled_in_any_way_and_spread_over_files(tmp_path: Path) -> None:
    """With hyphens or underscores, and numbers that YAML 1.1 takes for texts."""
    theirs = hf_model(config_json(48, 4, rotary_pct=0.5, rotary_emb_base=500, layer_norm_eps=1e-6))
    checkpoint = neox(theirs)
    del checkpoint.settings["layernorm-epsilon"]
    root = checkpoint.write(tmp_path / "x", "pipeline")
    (root / "configs").mkdir()
    run = root / "global_step11" / "configs" / "run.yml"
    run.rename(root / "configs" / "run.yml")
    run.parent.rmdir()
    more = '{\n  "layernorm-epsilon": 1e-6, # a comment\n  "rotary_emb_base": 5e2,\n}\n'
    (root / "configs" / "more.yaml").write_text(more)
    (root / "configs" / "README.md").write_text("no settings")
    source = read_neox(root)
    assert source.config_json["layer_norm_eps"] == 1e-6
    assert_same_logits(source, theirs)


def test_position_count_is_not_the_sequence_length(tmp_path: Path) -> None:
    checkpoint = neox(model(parallel=True))
    checkpoint.settings["seq-length"] = 32
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"))
    assert source.config_json["max_position_embeddings"] == 64


@pytest.mark.parametrize(
    ("activation", "fused", "option", "expected"),
    [
        ("gelu", False, "gelu_fast", "gelu"),
        ("gelu", True, "gelu", "gelu"),
        ("gelu", True, "gelu_fast", "gelu_fast"),
        ("relu", True, "gelu_fast", "relu"),
        ("swish", False, "gelu", "silu"),
    ],
)
def test_activation_follows_the_settings(
    tmp_path: Path,
    activation: str,
    fused: bool,
    option: Literal["gelu", "gelu_fast"],
    expected: str,
) -> None:
    checkpoint = neox(model(parallel=True))
    checkpoint.settings |= {"activation": activation, "bias-gelu-fusion": fused}
    source = read_neox(checkpoint.write(tmp_path / "x", "pipeline"), fused_gelu=option)
    assert source.config_json["hidden_act"] == expected


@pytest.mark.parametrize("stored", [True, False])
def test_one_norm_for_both_branches_becomes_two_that_are_equal(
    tmp_path: Path, stored: bool
) -> None:
    """With gpt_j_tied the second norm of a layer may be stored, but nothing uses it."""
    theirs = hf_model(config_json(48, 4, rotary_pct=0.25, use_parallel_residual=True))
    for layer in theirs.gpt_neox.layers:
        layer.post_attention_layernorm.load_state_dict(layer.input_layernorm.state_dict())
    checkpoint = neox(theirs, ranks=2)
    checkpoint.settings["gpt_j_tied"] = True
    for modules in checkpoint.ranks:
        for number in (2, 3):
            for kind in ("weight", "bias"):
                name = f"post_attention_layernorm.{kind}"
                modules[number][name].fill_(7.0)
                if not stored:
                    del modules[number][name]
    assert_same_logits(read_neox(checkpoint.write(tmp_path / "x", "pipeline")), theirs)


def test_attention_without_biases(tmp_path: Path) -> None:
    theirs = hf_model(config_json(48, 4, rotary_pct=0.25, attention_bias=False))
    source = read_neox(neox(theirs, ranks=2).write(tmp_path / "x", "sequential"))
    assert_same_logits(source, theirs)


class LossScaler:
    """As DeepSpeed's: an object of a class that is not installed here."""

    __module__ = "deepspeed.runtime.fp16.loss_scaler"

    def __init__(self) -> None:
        self.cur_scale = 4096.0


def test_states_of_a_training_run_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [LossScaler.__module__.rsplit(".", level)[0] for level in range(4)]
    modules = {name: types.ModuleType(name) for name in packages}
    modules[LossScaler.__module__].LossScaler = LossScaler  # type: ignore[attr-defined]
    checkpoint = neox(model(parallel=True), ranks=2)
    checkpoint.states |= {
        "args": Namespace(num_layers=2, tokenizer_type="HFTokenizer"),
        "options": types.SimpleNamespace(lr=0.1),
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "loss": np.float64(2.5),
        "param_shapes": [{"a": torch.Size([3, 4])}],
        "optimizer": {"loss_scaler": LossScaler(), "state": {0: {"exp_avg": torch.ones(3)}}},
        "lr_scheduler": None,
    }
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        root = checkpoint.write(tmp_path / "x", "sequential")
    names = [entry.name for entry in read_neox(root).entries]
    assert names == list(state_dict(model(parallel=True)))


def test_settings_that_the_states_hold_are_enough(tmp_path: Path) -> None:
    theirs = model(parallel=True)
    checkpoint = neox(theirs)
    settings = {key.replace("-", "_"): value for key, value in checkpoint.settings.items()}
    checkpoint.states["args"] = Namespace(**settings)
    root = checkpoint.write(tmp_path / "x", "sequential")
    (root / "global_step11" / "configs" / "run.yml").unlink()
    assert_same_logits(read_neox(root), theirs)


def test_files_of_an_old_torch_are_read(tmp_path: Path) -> None:
    root = neox(model(parallel=True), ranks=2).write(tmp_path / "x", "pipeline")
    for path in root.glob("*/layer_*.pt"):
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    expected = state_dict(model(parallel=True))
    ours = read(read_neox(root))
    kept = {name: array for name, array in ours.items() if not name.endswith(SUMMED)}
    assert_same_bits(kept, {name: expected[name] for name in kept})


def test_a_step_is_found_from_above_and_from_within(tmp_path: Path) -> None:
    root = neox(model(parallel=True)).write(tmp_path / "x", "pipeline")
    (root / "tokenizer.json").write_text("{}")
    source = read_neox(root)
    assert source.layout == "neox"
    assert read_neox(root / "global_step11") == source
    assert {path.name for path in source.files} >= {"run.yml", "layer_00-model_00-model_states.pt"}
    (root / "latest").unlink()
    assert read_neox(root).files == source.files
    (root / "global_step12").mkdir()
    (root / "latest").write_text("global_step11\n")
    assert read_neox(root) == source


def test_a_published_config_tells_what_settings_do_not(tmp_path: Path) -> None:
    theirs = hf_model(
        config_json(48, 4, rotary_pct=0.25, hidden_act="gelu_fast", eos_token_id=[0, 3])
    )
    checkpoint = neox(theirs)
    checkpoint.settings["bias_gelu_fusion"] = True
    root = checkpoint.write(tmp_path / "x", "pipeline")
    theirs.config.to_json_file(root / "config.json")
    source = read_neox(root)
    assert source.config_json["hidden_act"] == "gelu_fast"
    assert source.config_json["eos_token_id"] == [0, 3]
    assert_same_logits(source, theirs)
