"""What comes out in Hugging Face's layout: the same bits, and a config.json for both readers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig as HFConfig

from neox_eqx.convert.config_out import result_config
from neox_eqx.convert.convert import convert
from neox_eqx.convert.hf_out import parse_size
from neox_eqx.convert.read import read_source
from neox_eqx.convert.source import Source
from neox_eqx.errors import InputError
from tests.checkpoint.checkpoints import rewrite_as_bin_shards
from tests.convert.hf_checkpoints import (
    DTYPES,
    add_companions,
    family_tensors,
    raw_tensors,
    write,
    write_family,
)
from tests.hf_models import FAMILIES, config_json

CARRIED = ("generation_config.json", "tokenizer.json")


def round_trip(source: Path, tmp_path: Path) -> Path:
    """`source` to the native layout and back to Hugging Face's."""
    convert(source, tmp_path / "native", to="native", verify=False)
    convert(tmp_path / "native", tmp_path / "back", to="hf", verify=False)
    return tmp_path / "back"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_family_comes_back_from_native_bit_for_bit(
    tmp_path: Path, name: str, dtype: str
) -> None:
    source = write_family(tmp_path / "source", name, dtype)
    back = round_trip(source, tmp_path)
    assert raw_tensors(back) == raw_tensors(source)
    theirs = json.loads((back / "config.json").read_text())
    assert {key: theirs[key] for key in FAMILIES[name]} == FAMILIES[name]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nan_payloads_negative_zero_and_subnormals_survive(tmp_path: Path, dtype: str) -> None:
    tensors = family_tensors("pythia-70m", dtype)
    tensor = tensors["gpt_neox.layers.0.attention.dense.weight"]
    width = tensor.element_size()
    # Quiet and signalling NaNs of both signs with payloads, -0, the smallest subnormals, infinity.
    wide = [0x7FC12345, 0xFFC54321, 0x7F800001, 0xFFBFFFFF, 0x80000000, 1, 0x80000001, 0x7F800000]
    brain = [0x7FC5, 0xFFC3, 0x7F81, 0xFFBF, 0x8000, 1, 0x8001, 0x7F80]
    half = [0x7E55, 0xFE33, 0x7C01, 0xFDFF, 0x8000, 1, 0x8001, 0x7C00]
    bits = {"float32": wide, "bfloat16": brain, "float16": half}[dtype]
    data = b"".join(pattern.to_bytes(width, "little") for pattern in bits)
    tensor.reshape(-1).view(torch.uint8)[: len(data)] = torch.frombuffer(
        bytearray(data), dtype=torch.uint8
    )
    source = write(tmp_path / "source", FAMILIES["pythia-70m"], tensors)
    stored = raw_tensors(source)
    assert stored["gpt_neox.layers.0.attention.dense.weight"][2].startswith(data)
    assert raw_tensors(round_trip(source, tmp_path)) == stored


def test_names_buffers_and_a_stored_copy_of_the_embedding_stay(tmp_path: Path) -> None:
    tensors = family_tensors("line-3.6b", "float16")
    tensors["lm_head.weight"] = tensors["gpt_neox.embed_in.weight"].clone()
    buffers = "gpt_neox.layers.0.attention"
    tensors[f"{buffers}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    tensors[f"{buffers}.masked_bias"] = torch.tensor(-1e9)
    tensors[f"{buffers}.rotary_emb.inv_freq"] = torch.rand(6)
    source = write(tmp_path / "source", FAMILIES["line-3.6b"], tensors)
    assert raw_tensors(round_trip(source, tmp_path)) == raw_tensors(source)


def test_each_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    tensors = family_tensors("line-3.6b", "mixed")
    mask = "gpt_neox.layers.0.attention.bias"
    tensors = {mask: torch.ones(1, 1, 3, 3, dtype=torch.bool), **tensors}
    source = write(tmp_path / "source", FAMILIES["line-3.6b"], tensors)
    data = (round_trip(source, tmp_path) / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, tensor in tensors.items():
        assert (start + header[name]["data_offsets"][0]) % tensor.element_size() == 0, name


def test_a_base_models_names_without_prefix_stay(tmp_path: Path) -> None:
    tensors = {
        name.removeprefix("gpt_neox."): tensor
        for name, tensor in family_tensors("line-3.6b").items()
    }
    source = write(tmp_path / "source", FAMILIES["line-3.6b"], tensors)
    assert raw_tensors(round_trip(source, tmp_path)) == raw_tensors(source)


def test_bin_shards_become_safetensors_of_the_same_bits(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "calm-7b", "mixed")
    expected, tensors = raw_tensors(source), family_tensors("calm-7b", "mixed")
    transposed = "gpt_neox.layers.1.attention.dense.weight"
    tensors[transposed] = tensors[transposed].t().contiguous().t()
    rewrite_as_bin_shards(source, tensors, 3)
    convert(source, tmp_path / "result", to="hf", verify=False)
    assert raw_tensors(tmp_path / "result") == expected


def test_shards_keep_to_the_size_and_the_index_to_the_format(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "pythia-1b", "mixed")
    convert(source, tmp_path / "result", to="hf", max_shard_bytes=50_000, verify=False)
    assert raw_tensors(tmp_path / "result") == raw_tensors(source)
    index = json.loads((tmp_path / "result" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "result").glob("*.safetensors"))
    count = len(shards)
    assert [shard.name for shard in shards] == [
        f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)
    ]
    expected = raw_tensors(source)
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in expected.values())
    for shard in shards:
        held = [name for name, file in index["weight_map"].items() if file == shard.name]
        assert sum(len(expected[name][2]) for name in held) <= 50_000
    assert index["weight_map"].keys() == expected.keys()


@pytest.mark.parametrize("to", ["hf", "native"])
def test_tokenizer_and_generation_files_are_carried_byte_for_byte(tmp_path: Path, to: str) -> None:
    source = add_companions(write_family(tmp_path / "source", "pythia-70m"))
    (source / "README.md").write_text("not the model's")
    convert(source, tmp_path / "result", to=to, verify=False)
    for name in CARRIED:
        assert (tmp_path / "result" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "result" / "README.md").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_cast_rounds_as_torch_does_and_is_named(tmp_path: Path, dtype: str) -> None:
    tensors = family_tensors("pythia-70m", "mixed")
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"][0, :3] = torch.tensor([7e4, -1e38, 1e-9])
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    tensors["gpt_neox.layers.0.attention.bias"] = mask
    source = write(tmp_path / "source", FAMILIES["pythia-70m"], tensors)
    certificate = convert(source, tmp_path / "result", to="hf", dtype=dtype, verify=False)
    wanted = getattr(torch, dtype)
    cast = {name: t if t is mask else t.to(wanted) for name, t in tensors.items()}
    expected = write(tmp_path / "expected", FAMILIES["pythia-70m"], cast)
    assert raw_tensors(tmp_path / "result") == raw_tensors(expected)
    config = json.loads((tmp_path / "result" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype
    for name, described in certificate["tensors"].items():
        changed = tensors[name].dtype not in (wanted, torch.bool)
        assert ("cast" in described) == changed
        assert (described["source"] != described["result"]) == changed


@pytest.mark.parametrize("name", FAMILIES)
def test_config_json_means_the_same_to_both_generations_of_transformers(name: str) -> None:
    stated = FAMILIES[name]
    source = Source("hf", Path(), stated, [], (), {})
    result = result_config(source, "float16")
    assert result.keys() >= stated.keys()
    theirs = HFConfig.from_dict(dict(stated)).rope_parameters
    assert HFConfig.from_dict(json.loads(json.dumps(result))).rope_parameters == theirs
    # What transformers 4 reads; it looks at no rope_parameters.
    assert result["rotary_pct"] == theirs["partial_rotary_factor"]
    assert result["rotary_emb_base"] == theirs["rope_theta"]
    old = result["rope_scaling"]
    kind = (old.get("rope_type") or old.get("type")) if old else "default"
    assert kind == theirs["rope_type"]
    assert old is None or old["factor"] == theirs["factor"]
    assert result["dtype"] == result["torch_dtype"] == "float16"


def test_contradicting_keys_are_settled_as_transformers_5_reads_them() -> None:
    nested = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    stated = config_json(rotary_pct=1.0, rotary_emb_base=10000, rope_parameters=nested, other=[1])
    result = result_config(Source("hf", Path(), stated, [], (), {}), "float32")
    assert (result["rotary_pct"], result["rotary_emb_base"], result["other"]) == (0.5, 500.0, [1])
    assert HFConfig.from_dict(dict(result)).rope_parameters["partial_rotary_factor"] == 0.5


def test_a_dtype_that_the_source_does_not_state_is_that_of_most_bytes(tmp_path: Path) -> None:
    tensors = family_tensors("pythia-70m", "bfloat16")
    tensors["gpt_neox.final_layer_norm.weight"] = torch.ones(64)
    source = read_source(write(tmp_path / "source", FAMILIES["pythia-70m"], tensors))
    result = result_config(source, "same")
    assert result["dtype"] == result["torch_dtype"] == "bfloat16"


LOADS = """
import sys
from transformers import GPTNeoXForCausalLM
from transformers.utils import logging
logging.disable_progress_bar()
for directory in sys.argv[1:]:
    _, info = GPTNeoXForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), (directory, info)
"""


def test_transformers_loads_the_results_in_a_fresh_process_without_a_word(tmp_path: Path) -> None:
    names = ["gpt-neox-20b", "line-3.6b", "rinna-bilingual-4b-8k", "no-attention-bias", "yarn"]
    for name in names:
        write_family(tmp_path / f"{name}-source", name, "float16")
        round_trip(tmp_path / f"{name}-source", tmp_path)
        shutil.rmtree(tmp_path / "native")
        (tmp_path / "back").rename(tmp_path / name)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADS, *(tmp_path / name for name in names)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2gib", 2**31), ("7KB", 7000)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "0GB", "-1GB", "5 TB", "GB", "5GB5"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not of the form 5GB"):
        parse_size(text)
