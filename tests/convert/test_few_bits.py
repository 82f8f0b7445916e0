"""Checkpoints in few bits: the model that rounding gives, read without being rounded again."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint import entry
from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.names import linears
from neox_eqx.checkpoint.rounded import RoundedWeight
from neox_eqx.checkpoint.torch_file import MemoryEntry
from neox_eqx.cli import convert as command
from neox_eqx.cli import plan
from neox_eqx.cli.benchmark import Options as BenchmarkOptions
from neox_eqx.cli.benchmark import main as benchmark
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.certificate import CERTIFICATE
from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.errors import InputError
from neox_eqx.model.int4 import Int4Linear
from neox_eqx.model.int4_rows import Int4Rows
from neox_eqx.native.tiles import untiled
from neox_eqx.text.generator import TextGenerator
from tests.checkpoint.adapters import save_adapter
from tests.checkpoint.checkpoints import assert_same_bits, edit_config, rewrite
from tests.convert.hf_checkpoints import family_tensors, write
from tests.hf_models import FAMILIES, config_json, hf_model
from tests.text.checkpoints import byte_level

FORMS = ("int8", "int4")
QKV = "gpt_neox.layers.1.attention.query_key_value"
TEXT = "Two cats sat, and the third came later. " * 8
# Of whole tiles and groups; of neither; and one whose head is the embedding.
CONFIGS = {
    "whole": config_json(128, 4, rotary_pct=0.25, use_parallel_residual=True, vocab_size=320),
    "odd": FAMILIES["weblab-10b"],
    "tied": FAMILIES["line-3.6b"],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, config in CONFIGS.items():
        found[name] = tmp_path_factory.mktemp("few") / name
        hf_model(config).save_pretrained(found[name])
        byte_level().save(str(found[name] / "tokenizer.json"))
    return found


@pytest.fixture(scope="module")
def results(sources: dict[str, Path]) -> dict[tuple[str, str], Path]:
    found = {}
    for name, source in sources.items():
        for form in FORMS:
            found[name, form] = source.parent / form
            convert(source, found[name, form], to="native", quantize=form, verify=False)
    return found


@pytest.fixture
def source(sources: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sources["whole"], tmp_path / "source"))


def certificate(directory: Path) -> dict[str, Any]:
    return json.loads((directory / CERTIFICATE).read_text())


def restored(directory: Path) -> dict[str, np.ndarray]:
    """The tensors as Orbax reads them."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(directory / "parameters")


def numbers(arrays: dict[str, np.ndarray], linear: str, columns: int) -> np.ndarray:
    """What the codes of a Linear stand for, worked out one by one from what the files say."""
    weight, scale = arrays[f"{linear}.weight"], arrays[f"{linear}.scale"].astype(np.float32)
    if weight.dtype == np.int8:
        return weight.astype(np.float32) * scale[:, None]
    found = np.zeros((len(weight), columns), np.float32)
    for column in range(columns):
        eight, place = divmod(column, 8)
        byte = weight[:, 4 * eight + place % 4].astype(int)
        code = byte >> 4 if place >= 4 else byte & 15
        found[:, column] = scale[:, column // 32] * (code - 8)
    return found


def dense(tree: dict[str, np.ndarray], config: GPTNeoXConfig) -> dict[str, np.ndarray]:
    return {
        name: numbers(tree, name.removesuffix(".weight"), shape[1])
        for name, shape in linears(config).items()
    }


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("whole", "int8", {"stacked": False}),
        ("whole", "int4", {"stacked": True}),
        ("odd", "int8", {"stacked": True}),
        ("odd", "int4", {"dtype": "bfloat16"}),
        ("tied", "int4", {}),
        ("whole", "int8", {"mesh": "data=2,model=4"}),
        ("whole", "int4", {"mesh": "data=4,model=2,layout=2d"}),
        ("odd", "int4", {"mesh": "data=2,model=2,heads=20"}),
    ],
)
def test_it_is_the_model_that_rounding_at_load_gives(
    sources: dict[str, Path],
    results: dict[tuple[str, str], Path],
    name: str,
    form: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = load(sources[name], quantize=form, **options)
    if "dtype" in options:
        monkeypatch.setattr(entry, "BLOCK_ELEMENTS", 7 * 128)
    model = load(results[name, form], **options)
    assert_same_bits(model, expected)
    for array, other in zip(jax.tree.leaves(model), jax.tree.leaves(expected), strict=True):
        assert array.sharding == other.sharding


def test_its_own_form_may_be_asked_for(results: dict[tuple[str, str], Path]) -> None:
    found = results["tied", "int4"]
    assert_same_bits(load(found, quantize="int4"), load(found))


@pytest.mark.parametrize("form", FORMS)
def test_the_files_have_the_numbers_of_the_model(
    results: dict[tuple[str, str], Path], form: str
) -> None:
    """By what the documentation says of the files; and an Int4Linear as its own says."""
    found = results["odd", form]
    model, arrays = load(found), restored(found)
    linear = model.layers[1].attention.query_key_value
    if form == "int8":
        expected = np.asarray(linear.weight, np.float32) * np.asarray(linear.scale)[:, None]
    else:
        tiles, groups, _, width = linear.weight.shape
        flat = np.asarray(linear.weight).reshape(tiles, groups * 4, width)
        expected = untiled(flat, np.asarray(linear.scale))[:114, :38]
    np.testing.assert_array_equal(numbers(arrays, QKV, 38), expected)
    np.testing.assert_array_equal(linear.dense(), expected)


@pytest.mark.typed
@pytest.mark.parametrize("shape", [(48, 64), (13, 40)])
def test_the_file_is_the_same_whatever_machine_writes_or_reads_it(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stored = MemoryEntry(Path("x"), "a.weight", weight)
    of_tiles, of_rows = (
        RoundedWeight(stored, form).rows(slice(0, shape[0])) for form in (Int4Linear, Int4Rows)
    )
    for name in ("weight", "scale"):
        assert of_tiles[name].tobytes() == of_rows[name].tobytes()
    for form in (Int4Linear, Int4Rows):
        held, expected = form.from_file(of_tiles, shape[1]), form.encode(weight)
        for name, array in expected.items():
            assert held[name].dtype == array.dtype
            np.testing.assert_array_equal(held[name], array)


@pytest.mark.parametrize("form", FORMS)
def test_the_certificate_says_how_far_weights_are_off(
    sources: dict[str, Path], results: dict[tuple[str, str], Path], form: str
) -> None:
    config = GPTNeoXConfig.from_file(sources["odd"] / "config.json")
    found = dense(restored(results["odd", form]), config)
    stored = load_file(sources["odd"] / "model.safetensors")
    stored = {name.replace("lm_head", "embed_out"): own.numpy() for name, own in stored.items()}
    off = {name: np.square(own - stored[name]).sum() for name, own in found.items()}
    whole = {name: np.square(stored[name]).sum() for name in found}
    said = certificate(results["odd", form])["quantization"]
    total = (sum(off.values()) / sum(whole.values())) ** 0.5
    assert said["form"] == form and said["relative_error"] == pytest.approx(total, rel=1e-5)
    worst = max(off, key=lambda name: off[name] / whole[name])
    assert said["largest_relative_error"]["tensor"].replace("lm_head", "embed_out") == worst
    share = (off[worst] / whole[worst]) ** 0.5
    assert said["largest_relative_error"]["of"] == pytest.approx(share, rel=1e-5)
    assert said["text"] == {"skipped": "no text was given"}


def test_the_certificate_says_what_changes_on_a_text(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As transformers has it, of the numbers in the source and of those that int8 stands for."""
    source, text = sources["whole"], tmp_path / "text.txt"
    text.write_text(TEXT)
    options = command.Options(
        str(source), tmp_path / "new", to="native", quantize="int8", text=text, verify=False
    )
    command.main(options)
    convert(tmp_path / "new", tmp_path / "back", to="hf", verify=False)
    ids = byte_level().encode(TEXT).ids
    assert len(ids) > 2 * 64 and len(ids) % 64  # of three windows the last is short
    logits, losses = [], []
    for directory in (source, tmp_path / "back"):
        model = GPTNeoXForCausalLM.from_pretrained(directory, dtype=torch.float32)
        with torch.inference_mode():
            windows = [
                (model(torch.tensor([ids[start : start + 64]])).logits[0], ids[start + 1 :][:64])
                for start in range(0, len(ids) - 1, 64)
            ]
        both = [(own[: len(after)], torch.tensor(after)) for own, after in windows]
        losses.append(sum(torch.nn.functional.cross_entropy(*own, reduction="sum") for own in both))
        logits.append(torch.cat([own for own, _ in both]))
    found = certificate(tmp_path / "new")["quantization"]["text"]
    assert (found["file"], found["tokens"]) == ("text.txt", len(ids) - 1)
    before, after = (float(torch.exp(loss / (len(ids) - 1))) for loss in losses)
    off = logits[1] - logits[0]
    # Measured 2e-6.
    assert found["source_perplexity"] == pytest.approx(before, rel=2e-5)
    assert found["perplexity"] == pytest.approx(after, rel=2e-5) != before
    assert found["logit_difference_rms"] == pytest.approx(
        float(off.square().mean() ** 0.5), rel=1e-3
    )
    assert found["largest_logit_difference"] == pytest.approx(float(off.abs().max()), rel=1e-3)
    assert found["logit_rms"] == pytest.approx(float(logits[0].square().mean() ** 0.5), rel=1e-4)
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).sum()
    assert found["likeliest_tokens_agreeing"] == int(same) < len(ids) - 1
    out = capsys.readouterr().out
    assert f"perplexity of {len(ids) - 1} tokens: {after:.2f}"[:-1] in out
    assert "\nint8 weights are off by " in out


@pytest.mark.parametrize("form", FORMS)
def test_back_in_hugging_faces_layout_are_the_numbers_that_codes_stand_for(
    results: dict[tuple[str, str], Path], form: str, tmp_path: Path
) -> None:
    found = results["odd", form]
    said = convert(found, tmp_path / "hf", to="hf")["forward"]
    assert said["transformers_read"] == "the result's files"
    assert said["largest_logit_difference"] < 1e-4 * said["logit_rms"] * 10
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    written, arrays = load_file(tmp_path / "hf" / "model.safetensors"), restored(found)
    for name, own in dense(arrays, GPTNeoXConfig.from_hf(config)).items():
        stored = name if name in written else "lm_head.weight"
        assert written[stored].dtype == torch.float32
        np.testing.assert_array_equal(written[stored], own)
    convert(found, tmp_path / "native", to="native", dtype="float32", verify=False)
    assert_same_bits(load(tmp_path / "native"), load(tmp_path / "hf"))


def test_a_copy_has_the_same_codes(results: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    for number, options in enumerate(({}, {"quantize": "int4"})):
        new = tmp_path / str(number)
        convert(results["odd", "int4"], new, to="native", verify=False, **options)
        assert_same_bits(load(new), load(results["odd", "int4"]))


def test_what_is_not_rounded_has_the_dtype_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    """And weights are rounded once, from the numbers of the source."""
    new = tmp_path / "new"
    convert(source, new, to="native", quantize="int4", dtype="bfloat16", verify=False)
    assert_same_bits(load(new, dtype="bfloat16"), load(source, dtype="bfloat16", quantize="int4"))
    kinds = {array.dtype.name for array in restored(new).values()}
    assert kinds == {"bfloat16", "uint8", "float16"}
    cast = {own.get("cast") for own in certificate(new)["tensors"].values()}
    assert cast == {"float32 to the nearest bfloat16", "float32 rounded to int4"}


def test_its_certificate_holds_until_a_bit_changes(
    results: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(results["odd", "int4"], tmp_path / "copy"))
    assert check(copy)[1] == len(load(copy).layers) * 12 + 4
    chunk = copy / "parameters" / f"{QKV}.scale" / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(InputError, match="SHA-256 is now"):
        check(copy)


def test_text_is_generated_from_it(
    sources: dict[str, Path], results: dict[tuple[str, str], Path]
) -> None:
    both = [
        TextGenerator.load(results["whole", "int4"]),
        TextGenerator.load(sources["whole"], quantize="int4"),
    ]
    one, other = (own.generate(["Two cats"], max_new_tokens=6)[0] for own in both)
    assert (one.text, one.tokens, one.logprob) == (other.text, other.tokens, other.logprob)


def test_a_plan_has_its_form(results: dict[tuple[str, str], Path]) -> None:
    options = plan.Options(("v5e:2x2",), model=str(results["odd", "int4"]), prompt_len=8, gen_len=8)
    (wish,) = plan._wishes(options)
    assert wish.quantize == "int4"
    with pytest.raises(InputError, match="has its weights in int4, and quantize asks for int8"):
        plan._wishes(dataclasses.replace(options, quantize="int8"))


def test_an_adapter_on_it_is_added_to_the_numbers_that_codes_stand_for(
    results: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    base = results["whole", "int4"]
    convert(base, tmp_path / "hf", to="hf", verify=False)
    save_adapter(tmp_path / "hf", tmp_path / "lora", target_modules=["dense"], r=2)
    ours = load(tmp_path / "lora", base=base)
    assert_same_bits(ours, load(tmp_path / "lora", base=tmp_path / "hf"))
    few = load(tmp_path / "lora", base=base, quantize="int4").layers[0]
    plain = load(base).layers[0]
    assert_same_bits(few.mlp.dense_h_to_4h, plain.mlp.dense_h_to_4h)
    changed = few.attention.dense
    assert_same_bits(changed, Int4Linear.of(ours.layers[0].attention.dense))
    with pytest.raises(InputError, match="has its weights in int4"):
        load(tmp_path / "lora", base=base, quantize="int8")
    convert(tmp_path / "lora", tmp_path / "merged", to="native", verify=False, origin=_base(base))
    assert_same_bits(load(tmp_path / "merged"), ours)


def test_an_adapter_on_all_of_it_leaves_nothing_in_few_bits(
    sources: dict[str, Path], results: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    base = results["tied", "int4"]
    save_adapter(sources["tied"], tmp_path / "lora", target_modules="all-linear", r=2)
    convert(tmp_path / "lora", tmp_path / "merged", to="hf", verify=False, origin=_base(base))
    assert_same_bits(load(tmp_path / "merged"), load(tmp_path / "lora", base=base))


def _base(base: Path) -> Any:
    return command.Options().origin.__class__(base=str(base))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "hf", "quantize": "int8"}, "in the native layout alone; take --to native"),
        (
            {"to": "native", "text": Path("x")},
            "what a rounded model is measured on; add --quantize",
        ),
        (
            {"to": "native", "quantize": "int8", "text": Path("/no/text")},
            "/no/text: cannot be read",
        ),
        ({"to": "native", "quantize": "int3"}, "quantize 'int3' is not supported"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "new", verify=False, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_other_forms_are_refused(results: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    few = results["whole", "int8"]
    message = "has its weights in int8, and quantize asks for int4"
    with pytest.raises(InputError, match=message):
        load(few, quantize="int4")
    with pytest.raises(InputError, match=message):
        convert(few, tmp_path / "new", to="native", quantize="int4")
    with pytest.raises(InputError, match="--against compares the same bits"):
        benchmark(BenchmarkOptions(model=str(few), against="transformers", gen_len=4, prompt_len=4))


@pytest.mark.parametrize(
    ("form", "number", "message"),
    [
        ("int8", np.nan, "holds NaN or infinity, which int8 has not"),
        ("int4", -np.inf, "holds NaN or infinity, which int4 has not"),
        ("int4", -524_064, "holds 524064 in absolute value, and int4 has at most 524032"),
    ],
)
def test_numbers_that_a_form_has_not_are_refused_by_the_tensors_name(
    source: Path, tmp_path: Path, form: str, number: float, message: str
) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors[f"{QKV}.weight"][5, 7] = number
    rewrite(source, tensors)
    for refused in (
        lambda: load(source, quantize=form),
        lambda: convert(source, tmp_path / "new", to="native", quantize=form),
    ):
        with pytest.raises(InputError) as caught:
            refused()
        assert f"model.safetensors: {QKV}.weight {message}; leave quantize out" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_number_of_4_bits_is_what_it_is(source: Path, sign: int) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors[f"{QKV}.weight"][5, 7] = sign * 524_032
    rewrite(source, tensors)
    linear = load(source, quantize="int4").layers[1].attention.query_key_value
    assert linear.dense()[5, 7] == sign * 524_032


def spoil(directory: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / "parameters" / name / "zarr.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def unlist(directory: Path, name: str) -> None:
    path = directory / "parameters" / "_METADATA"
    described = json.loads(path.read_text())
    leaves = described["tree_metadata"]
    gone = next(key for key, leaf in leaves.items() if leaf["key_metadata"][0]["key"] == name)
    del leaves[gone]
    path.write_text(json.dumps(described))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no scales": (
        lambda path: unlist(path, f"{QKV}.scale"),
        f"{QKV}.scale is missing, of a weight in int4",
    ),
    "no codes": (lambda path: unlist(path, f"{QKV}.weight"), f"{QKV}.weight is missing"),
    "other columns": (
        lambda path: spoil(path, f"{QKV}.weight", lambda own: own["shape"].__setitem__(1, 48)),
        "its chunks are not as this package writes them",
    ),
    "other rows": (
        lambda path: spoil(path, f"{QKV}.scale", lambda own: own["shape"].__setitem__(0, 96)),
        f"{QKV}.scale: is [96, 4], of a weight with 384 rows",
    ),
    "another dtype": (
        lambda path: spoil(path, f"{QKV}.scale", lambda own: own.update(data_type="uint16")),
        f"{QKV}.scale: is [384, 4] of uint16, and int4 has [384, 4] of float16 there",
    ),
    "said to be int8": (
        lambda path: edit_config(path, quantization_config=_said("int8")),
        "is [384, 4] of float16, and int8 has [384] of float32 there",
    ),
    "an unknown form": (
        lambda path: edit_config(path, quantization_config=_said("int5")),
        "quantize 'int5' is not supported",
    ),
    "a form that is none": (
        lambda path: edit_config(path, quantization_config=_said(["int4"])),
        "quantization_config is not supported",
    ),
    "nothing said": (
        lambda path: edit_config(path, quantization_config=None),
        "tensors do not fit config.json",
    ),
    "more layers": (
        lambda path: edit_config(path, num_hidden_layers=10**9),
        "tensors do not fit config.json",
    ),
    "wider": (
        lambda path: edit_config(path, hidden_size=4 * 10**8),
        "of a weight with 1200000000 rows",
    ),
}


def _said(form: Any) -> dict[str, Any]:
    return {"quant_method": "neox_eqx", "form": form}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_broken_is_said_in_one_line(
    results: dict[tuple[str, str], Path], tmp_path: Path, fault: str
) -> None:
    copy = Path(shutil.copytree(results["whole", "int4"], tmp_path / "copy"))
    change, message = FAULTS[fault]
    change(copy)
    with pytest.raises(InputError) as caught:
        load(copy)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(copy) in str(caught.value) or fault in ("an unknown form",)


def test_transformers_does_not_take_it_for_what_it_can_read(
    results: dict[tuple[str, str], Path],
) -> None:
    config = json.loads((results["whole", "int4"] / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "neox_eqx", "form": "int4"}


def test_names_without_a_prefix_are_known(tmp_path: Path) -> None:
    """As the files of a base model have them."""
    tensors = {
        name.removeprefix("gpt_neox.").replace("embed_out", "lm_head"): own
        for name, own in family_tensors("pythia-70m").items()
    }
    source = write(tmp_path / "source", FAMILIES["pythia-70m"], tensors)
    convert(source, tmp_path / "new", to="native", quantize="int4", verify=False)
    assert_same_bits(load(tmp_path / "new"), load(source, quantize="int4"))
