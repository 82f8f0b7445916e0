"""4 bits that suit a text: what a model makes of it changes less than with plain rounding."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neox_eqx.checkpoint.load import load
from neox_eqx.convert.calibrate import _square
from neox_eqx.convert.certificate import CERTIFICATE
from neox_eqx.convert.convert import convert
from neox_eqx.convert.gptq import round_for_inputs
from neox_eqx.errors import InputError
from neox_eqx.model.int4 import best_scale
from neox_eqx.model.int4_rows import Int4Rows
from tests.hf_models import config_json, hf_model
from tests.text.checkpoints import byte_level

LINES = ["Two cats sat.", "The third came later, and the two went.", "A cat sat on the third."]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def values(arrays: dict[str, np.ndarray], columns: int) -> np.ndarray:
    return Int4Rows.values(Int4Rows.from_file(arrays, columns))[:, :columns]


@pytest.mark.parametrize("columns", [64, 40])
def test_where_inputs_have_nothing_in_common_it_is_plain_rounding(columns: int) -> None:
    weight = normal(5, columns)
    expected = Int4Rows.to_file(Int4Rows.encode(weight))
    found = round_for_inputs(weight, 3 * np.eye(columns))
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes()


def one_by_one(weight: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Each number rounded in turn; those after it solve for the least error of all outputs."""
    columns = weight.shape[1]
    damped = products + 0.01 * np.trace(products) / columns * np.eye(columns)
    found, rest = np.zeros(weight.shape), weight.astype(np.float64)
    for column in range(columns):
        if column % 32 == 0:
            group = np.zeros((len(weight), 32), np.float32)
            part = rest[:, column : column + 32]
            group[:, : part.shape[1]] = part
            scale = best_scale(group).astype(np.float64)
        found[:, column] = scale * np.clip(np.round(rest[:, column] / scale), -8, 7)
        done, left = slice(0, column + 1), slice(column + 1, None)
        off = found[:, done] - weight[:, done]
        solved = np.linalg.solve(damped[left, left], damped[left, done] @ off.T)
        rest[:, left] = weight[:, left] - solved.T
    return found


@pytest.mark.parametrize("columns", [64, 40])
def test_each_error_is_made_up_for_by_what_is_not_rounded_yet(columns: int) -> None:
    weight, inputs = normal(4, columns), normal(200, 12) @ normal(12, columns, seed=1)
    inputs += 0.3 * normal(200, columns, seed=2)
    products = (inputs.T @ inputs).astype(np.float64)
    found = values(round_for_inputs(weight, products), columns)
    np.testing.assert_allclose(found, one_by_one(weight, products), rtol=1e-6, atol=1e-7)
    plain = values(Int4Rows.to_file(Int4Rows.encode(weight)), columns)
    of_found, of_plain = (np.linalg.norm(inputs @ (own - weight).T) for own in (found, plain))
    # Measured 0.43 and 0.44.
    assert of_found < 0.6 * of_plain


def test_an_input_that_never_occurs_is_no_harm() -> None:
    weight = normal(4, 40)
    found = values(round_for_inputs(weight, np.zeros((40, 40))), 40)
    np.testing.assert_array_equal(found, values(Int4Rows.to_file(Int4Rows.encode(weight)), 40))


def test_only_tokens_count_and_not_what_fills_rows_up() -> None:
    x, valid = normal(2, 5, 3), np.arange(5) < np.array([[5], [2]])
    found = _square(jnp.asarray(x), jnp.asarray(valid))
    np.testing.assert_allclose(found, x[valid].T @ x[valid], rtol=1e-5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("calibrate") / "source"
    config = config_json(64, 4, rotary_pct=0.25, use_parallel_residual=False, vocab_size=320)
    hf_model(config).save_pretrained(directory)
    byte_level().save(str(directory / "tokenizer.json"))
    (directory.parent / "lines.txt").write_text("\n".join(LINES * 4))
    (directory.parent / "text.txt").write_text(" ".join(LINES))
    return directory


def change(directory: Path) -> dict[str, Any]:
    return json.loads((directory / CERTIFICATE).read_text())["quantization"]


def test_a_model_changes_less_on_texts_that_it_was_calibrated_on(
    source: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"to": "native", "quantize": "int4", "verify": False}
    given["text"] = source.parent / "text.txt"
    convert(source, tmp_path / "plain", **given)
    lines = source.parent / "lines.txt"
    convert(source, tmp_path / "calibrated", calibrate=lines, **given)
    plain, found = change(tmp_path / "plain"), change(tmp_path / "calibrated")
    # Measured 0.52.
    assert found["text"]["logit_difference_rms"] < 0.7 * plain["text"]["logit_difference_rms"]
    assert found["relative_error"] > plain["relative_error"]
    tokens = sum(len(byte_level().encode(line).ids) for line in LINES * 4)
    described = found["calibrated_on"]
    assert (described["file"], described["tokens"]) == ("lines.txt", tokens)
    assert "calibrated_on" not in plain
    exact, few, other = (load(one) for one in (source, tmp_path / "calibrated", tmp_path / "plain"))
    for number, block in enumerate(few.layers):
        for one in (lambda own: own.attention.dense, lambda own: own.mlp.dense_h_to_4h):
            weight, codes = one(exact.layers[number]).dense(), one(block).dense()
            assert np.abs(np.asarray(codes - weight)).max() < 0.5 * np.abs(weight).max()
            assert not np.array_equal(codes, one(other.layers[number]).dense())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8"}, "--calibrate is for weights in 4 bits; add --quantize int4"),
        ({"calibrate": "bad.jsonl"}, 'bad.jsonl, line 2: needs either "text" or "prompt"'),
        ({"calibrate": "empty.txt"}, "empty.txt: holds no text"),
        ({"calibrate": "absent.txt"}, "absent.txt: cannot be read"),
    ],
)
def test_what_it_cannot_be_calibrated_on_is_refused(
    source: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    (tmp_path / "empty.txt").write_text("")
    given = {"quantize": "int4", "calibrate": "bad.jsonl"} | options
    with pytest.raises(InputError) as caught:
        convert(
            source,
            tmp_path / "new",
            to="native",
            quantize=given["quantize"],
            calibrate=tmp_path / given["calibrate"],
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_what_is_in_few_bits_has_nothing_to_be_calibrated(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "few", to="native", quantize="int4", verify=False)
    with pytest.raises(InputError, match="has its weights in int4 already"):
        convert(
            tmp_path / "few",
            tmp_path / "new",
            to="native",
            quantize="int4",
            calibrate=source.parent / "lines.txt",
        )


def test_inputs_that_are_no_numbers_are_refused_by_the_name_of_the_weight(
    source: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(source, model)
    tensors = load_file(model / "model.safetensors")
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"][0] = 3e38  # its square is infinite
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.dense_4h_to_h\.weight: what enters it"):
        convert(
            model,
            tmp_path / "new",
            to="native",
            quantize="int4",
            calibrate=source.parent / "lines.txt",
        )
    assert not (tmp_path / "new").exists()
