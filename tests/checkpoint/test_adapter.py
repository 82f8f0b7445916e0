"""A directory with PEFT's LoRA adapter is a model: the one that PEFT merges."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.fingerprint import fingerprint
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.merged import MergedEntry
from neox_eqx.checkpoint.names import parameters
from neox_eqx.checkpoint.origin import find
from neox_eqx.checkpoint.torch_file import MemoryEntry
from neox_eqx.errors import InputError
from neox_eqx.model.formats import quantized
from tests.checkpoint.adapters import save_adapter
from tests.hf_models import hf_model

QKV = "gpt_neox.layers.0.attention.query_key_value"
# As they are found: KULLM's, then what later adapters do.
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": dict(target_modules=["query_key_value"], r=8, lora_alpha=16, lora_dropout=0.05),
    "all-linear": dict(target_modules="all-linear", r=4),
    "regular expression": dict(target_modules=r".*layers\.1\..*(dense|dense_4h_to_h)"),
    "full names": dict(target_modules=[QKV, "gpt_neox.layers.1.mlp.dense_h_to_4h"]),
    "some layers": dict(target_modules=["dense"], layers_to_transform=[1], layers_pattern="layers"),
    "one layer": dict(target_modules=["dense", "dense_h_to_4h"], layers_to_transform=0),
    "all but": dict(target_modules="all-linear", exclude_modules=["dense"]),
    "rslora": dict(target_modules=["dense"], r=9, lora_alpha=3, use_rslora=True),
    "patterns": dict(
        target_modules=["query_key_value", "dense"],
        rank_pattern={r"layers\.1\.attention\.dense": 2, "query_key_value": 3},
        alpha_pattern={"query_key_value": 5},
    ),
    "biases": dict(target_modules=["dense"], bias="all"),
    "its biases": dict(target_modules=["dense_h_to_4h"], bias="lora_only"),
    "head and embedding": dict(target_modules=["embed_in", "lm_head"], r=4),
    "modules to save": dict(
        target_modules=["query_key_value"], modules_to_save=["embed_in", "lm_head"]
    ),
    "a norm": dict(target_modules=["dense"], modules_to_save=["final_layer_norm"]),
    "fan in": dict(target_modules=["dense"], fan_in_fan_out=True),
}


def tensors(directory: Path) -> dict[str, np.ndarray]:
    model = load(directory, dtype="float32", stacked=False)
    return {leaf.names[0]: np.asarray(leaf.array) for leaf in parameters(model)}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_it_loads_as_peft_merges_it(kind: str, saved: Path, tmp_path: Path) -> None:
    expected = save_adapter(saved, tmp_path, **ADAPTERS[kind])
    found = tensors(tmp_path)
    plain = tensors(saved)
    expected["embed_out.weight"] = expected.pop("lm_head.weight")
    assert found.keys() == expected.keys() == plain.keys()
    assert any(not np.array_equal(found[name], plain[name]) for name in found)
    for name, tensor in found.items():
        # Measured 0; elsewhere torch may add up the products in another order.
        np.testing.assert_allclose(tensor, expected[name].numpy(), atol=5e-7, rtol=0)


def repacked(directory: Path, name: Callable[[str], str]) -> None:
    """As versions of PEFT before 0.7 wrote it, or others: another file, other names."""
    path = directory / "adapter_model.safetensors"
    torch.save(
        {name(key): tensor for key, tensor in load_file(path).items()}, path.with_suffix(".bin")
    )
    path.unlink()


@pytest.mark.parametrize(
    "name",
    [
        lambda key: key,
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.removeprefix("base_model.model.gpt_neox."),
    ],
)
def test_old_files_and_names_are_read(
    name: Callable[[str], str], saved: Path, tmp_path: Path
) -> None:
    save_adapter(saved, tmp_path, target_modules=["query_key_value", "dense"])
    expected = tensors(tmp_path)
    repacked(tmp_path, name)
    found = tensors(tmp_path)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_the_head_has_two_names(saved: Path, tmp_path: Path) -> None:
    save_adapter(saved, tmp_path, target_modules=["lm_head"])
    expected = tensors(tmp_path)
    repacked(tmp_path, lambda key: key.replace("lm_head", "embed_out"))
    edited(tmp_path, target_modules=["embed_out"])
    found = tensors(tmp_path)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_what_is_rounded_is_the_sum(stored: str, saved: Path, tmp_path: Path) -> None:
    base, dtype = tmp_path / "base", getattr(torch, stored)
    GPTNeoXForCausalLM.from_pretrained(saved, dtype=dtype).save_pretrained(base)
    save_adapter(base, tmp_path / "adapter", target_modules=["dense"])
    exact = tensors(tmp_path / "adapter")
    rounded = load(tmp_path / "adapter", dtype=stored, stacked=False)
    weight = rounded.layers[1].attention.dense.weight
    assert np.array_equal(
        weight, exact[f"{QKV[:15]}.1.attention.dense.weight"].astype(weight.dtype)
    )


def test_any_part_of_a_merged_tensor_has_the_same_bits(tmp_path: Path) -> None:
    """Products of other sizes may add up in another order, and a row alone does."""
    random = np.random.default_rng(0)
    shapes = (600, 1000), (600, 64), (64, 1000)
    weight, left, right = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    entry = MergedEntry(MemoryEntry(tmp_path, "weight", weight), left, right, 0.7)
    whole = entry.read((slice(None), slice(None)))
    np.testing.assert_allclose(whole, weight + 0.7 * (left @ right), atol=1e-4)
    for first, last in [(0, 1), (5, 48), (7, 7), (255, 257), (300, 301), (511, 900)]:
        rows, columns = slice(first, last), slice(3, 950)
        assert np.array_equal(entry.read((rows, columns)), whole[rows, columns])


def test_a_mesh_gets_its_parts(saved: Path, tmp_path: Path) -> None:
    save_adapter(saved, tmp_path, target_modules="all-linear", r=7)
    expected = tensors(tmp_path)
    sharded = load(tmp_path, dtype="float32", stacked=True, mesh="data=1,model=4")
    for name in ("dense_4h_to_h", "dense_h_to_4h"):
        ours = getattr(sharded.layers.mlp, name).weight[1]
        assert np.array_equal(ours, expected[f"gpt_neox.layers.1.mlp.{name}.weight"])


def test_fingerprints_and_int8_are_of_the_sum(saved: Path, tmp_path: Path) -> None:
    save_adapter(saved, tmp_path, target_modules=["query_key_value"])
    marks = []
    for directory in (saved, tmp_path):
        checkpoint = Checkpoint.open(find(directory))
        marks.append(fingerprint(fitting(checkpoint), first_rows=True))
    assert marks[0] != marks[1]
    exact = quantized(load(tmp_path, dtype="float32", stacked=False))
    small = load(tmp_path, dtype="float32", stacked=False, quantize="int8")
    assert np.array_equal(
        small.layers[0].attention.query_key_value.weight,
        exact.layers[0].attention.query_key_value.weight,
    )


def edited(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_base_is_found_by_its_name_or_given(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "runs" / "adapter"
    save_adapter(saved, adapter, target_modules=["dense"])
    assert find(adapter).directory == saved
    (tmp_path / "base").symlink_to(saved)
    edited(adapter, base_model_name_or_path="../../base")
    assert find(adapter).directory.resolve() == saved
    edited(adapter, base_model_name_or_path="base")
    with pytest.raises(InputError) as raised:
        find(adapter)
    message = str(raised.value)
    assert message.startswith(f"{adapter}: its base is not found: base: ")
    assert message.endswith("; or name the base with --base MODEL") and "\n" not in message
    assert find(adapter, base=saved).directory == saved
    monkeypatch.chdir(tmp_path)
    assert find("runs/adapter").directory.resolve() == saved
    for name in (None, ""):
        edited(adapter, base_model_name_or_path=name)
        with pytest.raises(InputError, match="does not name its base; name it with --base MODEL"):
            find(adapter)
    with pytest.raises(InputError, match="is an adapter and no base"):
        find(adapter, base=adapter)
    with pytest.raises(InputError, match="is no LoRA adapter, as it holds no adapter_config.json"):
        find(saved, base=saved)


def test_the_tokenizer_is_the_given_or_the_adapters_or_the_bases(
    saved: Path, tmp_path: Path
) -> None:
    save_adapter(saved, tmp_path, target_modules=["dense"])
    assert find(tmp_path).tokenizer == saved
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert find(tmp_path).tokenizer == saved  # which that file alone does not make
    (tmp_path / "tokenizer.json").write_text("{}")
    origin = find(tmp_path)
    assert (origin.directory, origin.tokenizer, origin.adapter) == (saved, tmp_path, tmp_path)
    names = [path.name for path in origin.companions]
    assert names == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    other = tmp_path / "other"
    other.mkdir()
    assert find(tmp_path, tokenizer=other).tokenizer == other


def retensored(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "adapter_model.safetensors"
    values = load_file(path)
    change(values)
    save_file(values, path)


A = f"base_model.model.{QKV}.lora_A.weight"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "soft prompt": (lambda d: edited(d, peft_type="PREFIX_TUNING"), "this as --soft-prompt"),
    **{
        kind: (lambda d, kind=kind: edited(d, peft_type=kind), f"an adapter of the kind '{kind}'")
        for kind in ("IA3", "LOHA", "ADALORA", "VERA", "P_TUNING")
    },
    "no kind": (lambda d: edited(d, peft_type=None), "an adapter of the kind None, and only LORA"),
    "dora": (lambda d: edited(d, use_dora=True), "is LoRA with use_dora, which is not read"),
    "pissa": (lambda d: edited(d, init_lora_weights="pissa_niter_4"), "with init_lora_weights"),
    "tokens": (lambda d: edited(d, trainable_token_indices=[1]), "with trainable_token_indices"),
    "rank": (lambda d: edited(d, r=5), "have the ranks 4 and 4, and .*adapter_config.json says 5"),
    "rank of a text": (lambda d: edited(d, r="4"), "r must be a whole number of at least 1"),
    "ranks in a list": (lambda d: edited(d, rank_pattern=[4]), "must be of type dict, not \\[4"),
    "yes": (lambda d: edited(d, use_rslora="yes"), "use_rslora must be of type bool, not 'yes'"),
    "revision": (lambda d: edited(d, revision=3), "revision must be of type str, not 3"),
    "pattern": (lambda d: edited(d, rank_pattern={"(": 4}), "is no regular expression"),
    "targets": (lambda d: edited(d, target_modules=3), "target_modules must be a text or a list"),
    "no regular expression": (lambda d: edited(d, target_modules="*"), "is no regular expression"),
    "flags within": (lambda d: edited(d, rank_pattern={"(?i)a": 4}), "global flags not at the st"),
    "repetition": (lambda d: edited(d, target_modules=f"a{{{2**80}}}"), "number is too large"),
    "endless": (
        lambda d: edited(d, target_modules="([a-z_.0-9]|[a-z]+)*!"),
        r"adapter_config.json: the regular expression '\(.*' takes more than 2 seconds",
    ),
    "two groups": (
        lambda d: edited(d, layers_pattern=["(?P<number>h)"], layers_to_transform=[1]),
        "redefinition of group name 'number'",
    ),
    "control": (lambda d: edited(d, target_modules="(?\x1b"), r"'unknown extension \?\\x1b"),
    "huge rank": (lambda d: edited(d, r=10**400), "r must be a whole number of at least 1"),
    "many": (lambda d: edited(d, target_modules=["a"] * 5000), "has 5000 entries, and at most"),
    "depth": (lambda d: edited(d, target_modules="(" * 5000 + ")" * 5000), "is no regular expr"),
    "huge alpha": (lambda d: edited(d, lora_alpha=10**400), "lora_alpha must be a number, not 10"),
    "long base": (lambda d: edited(d, base_model_name_or_path="a" * 5000), "File name too long"),
    "lines": (lambda d: edited(d, base_model_name_or_path="a\nb"), r"'a\\nb' cannot be a model"),
    "not named": (lambda d: edited(d, target_modules=["dense"]), "lacks lora_A and lora_B of"),
    "too many": (
        lambda d: edited(d, layers_to_transform=[1]),
        f"of {QKV}, which target_modules does not name",
    ),
    "no file": (
        lambda d: (d / "adapter_model.safetensors").unlink(),
        "has no weights; expected adapter_model.safetensors or adapter_model.bin",
    ),
    "empty": (lambda d: retensored(d, lambda t: t.clear()), "holds no tensors of LoRA"),
    "half": (lambda d: retensored(d, lambda t: t.pop(A)), "has but one of lora_A and lora_B"),
    "a layer": (
        lambda d: retensored(d, lambda t: [t.pop(key) for key in list(t) if ".1." in key]),
        "lacks lora_A and lora_B of gpt_neox.layers.1.attention.query_key_value",
    ),
    "nan": (lambda d: retensored(d, lambda t: t[A].fill_(np.nan)), "lora_A.weight holds NaN"),
    "shape": (
        lambda d: retensored(d, lambda t: t.update({A: torch.ones(4, 40)})),
        r"has the shape \[144, 40\], and the model's \[144, 48\]; it belongs to another model",
    ),
    "no matrix": (lambda d: retensored(d, lambda t: t.update({A: torch.ones(4)})), "be a matrix"),
    "another model": (
        lambda d: retensored(d, lambda t: t.update({A.replace("neox.layers", "neox.h"): t[A] * 2})),
        "has but one of",
    ),
    "more layers": (
        lambda d: retensored(
            d, lambda t: t.update({k.replace(".0.", ".9."): t[k] * 2 for k in [*t]})
        ),
        "layers.9.attention.query_key_value, which the model does not have",
    ),
    "resized": (
        lambda d: retensored(
            d, lambda t: t.update({"base_model.model.embed_out.weight": torch.ones(97, 48)})
        ),
        r"\[97, 48\], and the model's \[96, 48\].* vocabulary was resized",
    ),
    "truncated": (
        lambda d: (d / "adapter_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{"),
        "is truncated or corrupt",
    ),
}


@pytest.fixture(scope="module")
def adapter(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapter")
    save_adapter(saved, directory, target_modules=["query_key_value"], r=4)
    return directory


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_merged_is_told_in_one_line(
    what: str, adapter: Path, tmp_path: Path
) -> None:
    breaking, message = BROKEN[what]
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    breaking(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        Checkpoint.open(find(tmp_path))
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


def test_a_head_that_is_the_embedding_is_not_changed_alone(saved: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    config = json.loads((saved / "config.json").read_text())
    hf_model(config | {"tie_word_embeddings": True}).save_pretrained(base)
    save_adapter(base, tmp_path / "adapter", target_modules=["embed_in"])
    with pytest.raises(InputError, match="changes the embedding or the head alone, which are one"):
        load(tmp_path / "adapter")
