"""Every form of checkpoint that is found in the wild loads as transformers' own parameters."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.load import load
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.neox import GPTNeoX
from tests.checkpoint.checkpoints import (
    assert_same_bits,
    edit_config,
    rewrite,
    rewrite_as_bin,
    rewrite_as_bin_shards,
)
from tests.hf_models import from_torch, hf_logits, our_logits, padded_batch, stack_layers

HEAD = "embed_out.weight"
EMBEDDING = "gpt_neox.embed_in.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def expected(theirs: GPTNeoXForCausalLM, saved: Path) -> GPTNeoX:
    return from_torch(theirs, GPTNeoXConfig.from_file(saved / "config.json"))


def with_buffers(tensors: Tensors) -> Tensors:
    """The buffers that old versions of transformers saved with every layer."""
    buffers: Tensors = {}
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        buffers[f"{attention}.bias"] = torch.ones(
            1, 1, 64, 64, dtype=[torch.bool, torch.uint8][layer]
        )
        buffers[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        buffers[f"{attention}.rotary_emb.inv_freq"] = torch.zeros(3, dtype=torch.float16)
    return tensors | buffers


@pytest.mark.parametrize("stacked", [False, True])
def test_loaded_model_gives_the_logits_of_transformers(
    checkpoint: Path, theirs: GPTNeoXForCausalLM, stacked: bool
) -> None:
    tokens, valid = padded_batch(96)
    logits = our_logits(load(checkpoint, stacked=stacked), tokens, valid)
    reference = hf_logits(theirs, tokens, valid)
    np.testing.assert_allclose(logits[valid], reference[valid], atol=2e-5, rtol=0)


def test_single_safetensors_file(checkpoint: Path, expected: GPTNeoX) -> None:
    assert_same_bits(load(checkpoint), expected)
    assert_same_bits(load(str(checkpoint)), expected)


def test_stacked_layers(checkpoint: Path, expected: GPTNeoX) -> None:
    assert_same_bits(load(checkpoint, stacked=True), stack_layers(expected))


def test_safetensors_shards(theirs: GPTNeoXForCausalLM, expected: GPTNeoX, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_bits(load(tmp_path), expected)
    assert_same_bits(load(tmp_path, stacked=True), stack_layers(expected))


@pytest.mark.parametrize("zipped", [True, False])
def test_single_bin_file(
    checkpoint: Path, tensors: Tensors, expected: GPTNeoX, zipped: bool
) -> None:
    rewrite_as_bin(checkpoint, tensors, _use_new_zipfile_serialization=zipped)
    assert_same_bits(load(checkpoint), expected)
    assert_same_bits(load(checkpoint, stacked=True), stack_layers(expected))


def test_bin_shards(checkpoint: Path, tensors: Tensors, expected: GPTNeoX) -> None:
    rewrite_as_bin_shards(checkpoint, with_buffers(tensors), shards=3)
    assert_same_bits(load(checkpoint), expected)


def test_safetensors_come_before_bin(checkpoint: Path, tensors: Tensors, expected: GPTNeoX) -> None:
    torch.save(
        {name: tensor + 1 for name, tensor in tensors.items()}, checkpoint / "pytorch_model.bin"
    )
    assert_same_bits(load(checkpoint), expected)


def test_hub_cache_links_to_the_files(checkpoint: Path, expected: GPTNeoX, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in checkpoint.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert_same_bits(load(snapshot), expected)


def test_legacy_buffers_are_left_out(checkpoint: Path, tensors: Tensors, expected: GPTNeoX) -> None:
    rewrite(checkpoint, with_buffers(tensors))
    assert_same_bits(load(checkpoint), expected)


def test_head_may_be_called_lm_head(checkpoint: Path, tensors: Tensors, expected: GPTNeoX) -> None:
    tensors["lm_head.weight"] = tensors.pop(HEAD)
    rewrite(checkpoint, tensors)
    assert_same_bits(load(checkpoint), expected)


def test_base_model_names_have_no_prefix(
    theirs: GPTNeoXForCausalLM, checkpoint: Path, expected: GPTNeoX
) -> None:
    theirs.gpt_neox.save_pretrained(checkpoint)
    edit_config(checkpoint, tie_word_embeddings=True)
    model = load(checkpoint)
    assert model.embed_out is None
    np.testing.assert_array_equal(model.embed_in.weight, expected.embed_in.weight)
    np.testing.assert_array_equal(
        model.layers[1].mlp.dense_4h_to_h.weight, expected.layers[1].mlp.dense_4h_to_h.weight
    )


@pytest.mark.parametrize("head", ["absent", "equal", "in place of the embedding"])
def test_tied_head_is_shared(checkpoint: Path, tensors: Tensors, head: str) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    embedding = tensors[EMBEDDING]
    tensors |= {HEAD: embedding.clone()}
    if head == "absent":
        del tensors[HEAD]
    if head == "in place of the embedding":
        del tensors[EMBEDDING]
    rewrite(checkpoint, tensors)
    model = load(checkpoint)
    assert model.embed_out is None and model.config.tie_word_embeddings
    np.testing.assert_array_equal(model.embed_in.weight, embedding.numpy())
    reference = GPTNeoXForCausalLM.from_pretrained(checkpoint)
    assert_same_bits(model, from_torch(reference, model.config))


def test_different_head_stays_untied_with_a_warning(checkpoint: Path, expected: GPTNeoX) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    with pytest.warns(
        UserWarning, match="tie_word_embeddings is true but embed_out.weight differs"
    ):
        model = load(checkpoint)
    assert not model.config.tie_word_embeddings
    assert_same_bits(model, expected)
    reference = GPTNeoXForCausalLM.from_pretrained(checkpoint)
    np.testing.assert_array_equal(model.embed_out.weight, reference.lm_head.weight.detach().numpy())


def test_one_different_value_in_the_last_row_unties(checkpoint: Path, tensors: Tensors) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors[HEAD][-1, -1] += 1e-3
    rewrite(checkpoint, tensors)
    with pytest.warns(UserWarning, match="differs"):
        assert load(checkpoint).embed_out is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_mixed_dtypes_are_cast_one_by_one_as_torch_casts(
    checkpoint: Path, tensors: Tensors, dtype: str
) -> None:
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    tensors = {name: t.to(kinds[i % 4]) for i, (name, t) in enumerate(tensors.items())}
    name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.float32)
    tensors[name].view(-1)[:3] = torch.tensor([1e6, -1e6, 1e-40])
    rewrite(checkpoint, tensors)
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    assert_holds(load(checkpoint, dtype=dtype), cast)


# Compiled quickly, what stacks the expected layers changes NaNs of bfloat16.
@pytest.mark.optimised
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("file", ["safetensors", "zipped bin", "old bin"])
@pytest.mark.parametrize("stacked", [False, True])
def test_every_bit_survives(
    checkpoint: Path, tensors: Tensors, kind: str, file: str, stacked: bool
) -> None:
    """NaNs with payloads, both zeros, infinities and subnormal numbers among random bits."""
    dtype = getattr(torch, kind)
    bits = torch.int32 if kind == "float32" else torch.int16
    generator = torch.Generator().manual_seed(0)
    limit = torch.iinfo(bits)
    tensors = {
        name: torch.randint(
            limit.min, limit.max, tensor.shape, dtype=bits, generator=generator
        ).view(dtype)
        for name, tensor in tensors.items()
    }
    assert any(tensor.isnan().any() for tensor in tensors.values())
    tensors[EMBEDDING].view(-1)[:3] = torch.tensor([-0.0, 0.0, -torch.inf])
    if file == "safetensors":
        rewrite(checkpoint, tensors)
    else:
        zipped = file == "zipped bin"
        rewrite_as_bin(checkpoint, tensors, _use_new_zipfile_serialization=zipped)
    assert_holds(load(checkpoint, dtype=kind, stacked=stacked), tensors)


def assert_holds(model: GPTNeoX, tensors: Tensors) -> None:
    """Each tensor's own bytes are in the model. Names and layers are spelled out here."""
    for name, tensor in tensors.items():
        bits = torch.int32 if tensor.itemsize == 4 else torch.int16
        path = name.removeprefix("gpt_neox.").split(".")
        part, layer = model, None
        for step in path:
            if step.isdigit():
                layer = int(step)
                part = part if model.stacked else part[layer]
            else:
                part = getattr(part, step)
        part = part[layer] if model.stacked and layer is not None else part
        assert str(part.dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert np.asarray(part).tobytes() == tensor.view(bits).numpy().tobytes(), name


def test_defaults_on_a_cpu_are_float32_and_unrolled(checkpoint: Path, tensors: Tensors) -> None:
    rewrite(checkpoint, {name: tensor.half() for name, tensor in tensors.items()})
    model = load(checkpoint)
    assert model.dtype == jnp.float32 and not model.stacked


def test_nothing_is_printed_off_a_terminal(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(checkpoint)
    assert capfd.readouterr() == ("", "")
