"""Faults in what a file means, by the format that its name tells."""

import io
import json
import zipfile

import yaml
from hypothesis import strategies as st

from tests.fuzz.binaries import faulty_pickle, faulty_zip
from tests.fuzz.case import Edit
from tests.fuzz.faults import Draw, faulty_bytes, faulty_json, json_texts, odd_place, with_faults

_YAML = (
    *("&a [*a]", "&a {k: *a}", "!!timestamp x", "!!python/object/apply:os.system [ls]", "*nothing"),
    *("!!binary x", "!!set {a, b}", "!!int x", "!!float _", "!!bool x", "!!null x", "!!omap [a]"),
    *("2020-99-99", "0o99", "1_000", "0x_", ".inf", ".nan", "1:60:60", "~", "{? [a, b] : c}"),
    *("&l [" + "x, " * 20 + "x]", "%TAG", "---", "...", "{<<: 1}", "{<<: [1]}", "!!merge x"),
    *(
        "190:20:30",
        "1e",
        "1e5x",
        "+e-",
        ".e",
        "0x1e",
        "1e",
        "1e5x",
        "+e-",
        "- - -",
        "? ",
        "|\n",
        "!x y",
        "!!str",
        "'\\x",
        '"\\x1"',
        '"\\ud800"',
        "\t",
        "@",
    ),
)
# Ten levels of an alias of ten: ten thousand million leaves.
_LAUGHS = "\n".join(
    f"x{level}: &a{level} [{', '.join([f'*a{level - 1}' if level else 'lol'] * 10)}]"
    for level in range(10)
)
# Where names are not known from the file itself.
_NAMES = {
    "config.json": (
        *("rope_scaling", "rope_parameters", "attention_bias", "hidden_dropout", "pad_token_id"),
        *(
            "quantization_config",
            "dtype",
            "partial_rotary_factor",
            "rope_theta",
            "attention_dropout",
        ),
        *("rope_scaling", "is_decoder", "sliding_window", "auto_map", "temperature", "do_sample"),
    ),
    "generation_config.json": (
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "num_beams", "length_penalty"),
        *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"),
        *("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "stop_strings"),
        *("exponential_decay_length_penalty", "early_stopping", "num_return_sequences"),
        *("max_length", "min_length", "min_new_tokens", "pad_token_id", "renormalize_logits"),
        *("typical_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty", "guidance_scale"),
        *("forced_bos_token_id", "num_beam_groups", "watermarking_config", "cache_implementation"),
    ),
    "tokenizer_config.json": (
        *("chat_template", "added_tokens_decoder", "add_bos_token", "add_eos_token", "extra_ids"),
        *("additional_special_tokens", "legacy", "sp_model_kwargs", "add_prefix_space"),
        *("do_lower_case", "extra_special_tokens", "split_special_tokens", "tokenizer_file"),
    ),
    "tokenizer.json": (
        *("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"),
        *("byte_fallback", "unk_token", "dropout", "ignore_merges", "continuing_subword_prefix"),
    ),
}


def faulty(draw: Draw, path: str, content: bytes) -> Edit:
    """A file with faults in what it means, most often, or in its bytes, or something else there."""
    how = draw(st.sampled_from(("meaning",) * 7 + ("bytes", "bytes", "place")))
    if how == "place" or not content:
        return odd_place(draw, path)
    if how == "meaning":
        return Edit(path, "bytes", _faulty_meaning(draw, path.rsplit("/", 1)[-1], content))
    return Edit(path, "bytes", faulty_bytes(draw, content))


def _faulty_meaning(draw: Draw, name: str, content: bytes) -> bytes:
    if name.endswith(".json") or name.startswith("_"):
        return faulty_json(draw, json.loads(content), _NAMES.get(name, ()))
    if name.endswith(".jsonl"):
        return _faulty_lines(draw, content)
    if name.endswith(".partial"):
        return _faulty_rows(draw, content)
    if name.endswith((".yml", ".yaml")):
        return _faulty_yaml(draw, content)
    if name.endswith(".safetensors"):
        return _faulty_safetensors(draw, content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        return faulty_zip(draw, content)
    if content[:1] == b"\x80":
        return faulty_pickle(draw, content)
    return faulty_bytes(draw, content)


def _faulty_lines(draw: Draw, content: bytes) -> bytes:
    lines = content.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = faulty_json(draw, json.loads(lines[place]))
    return b"\n".join(lines) + b"\n"


def _faulty_rows(draw: Draw, content: bytes) -> bytes:
    """Of rows to go on with, after a line that says what they come of: place, tab, object."""
    lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    place, tab, row = lines[number].rpartition(b"\t")
    if tab and draw(st.booleans()):
        odd = (b"", b"-1", b"1", b"99", b"9" * 30, b"9" * 5000, b"\xc2\xb2", b"x", b"0", b"1e3")
        lines[number] = draw(st.sampled_from(odd)) + tab + row
    else:
        lines[number] = place + tab + faulty_json(draw, json.loads(row))
    return b"\n".join(lines) + draw(st.sampled_from((b"\n", b"\n", b"")))


def _faulty_yaml(draw: Draw, content: bytes) -> bytes:
    values = st.booleans().flatmap(lambda own: st.sampled_from(_YAML) if own else json_texts())
    value, faults = with_faults(draw, yaml.safe_load(content), (), values)
    text = yaml.safe_dump(value, width=10**6, default_flow_style=draw(st.booleans()))
    for mark, fault in faults.items():
        text = text.replace(f"'{mark}'", fault)
    if draw(st.integers(0, 9)) == 0:
        text += _LAUGHS + f"\n{draw(st.sampled_from(('norm', 'num-layers', 'x')))}: *a9\n"
    return text.encode("utf-8", "surrogatepass")


def _faulty_safetensors(draw: Draw, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = faulty_json(draw, json.loads(content[8 : 8 + size]))
    told = draw(
        st.sampled_from((len(header),) * 8 + (0, 1, len(header) + 1, 10**8, 2**63, 2**64 - 1))
    )
    return told.to_bytes(8, "little") + header + content[8 + size :]
