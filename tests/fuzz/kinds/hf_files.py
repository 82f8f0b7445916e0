"""Faults in the files of a directory in Hugging Face's layout."""

import json
from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st

from neox_eqx import DEMO_MODEL
from tests.fuzz.bases import CONFIG
from tests.fuzz.case import Case, Edit
from tests.fuzz.commands import of_model
from tests.fuzz.faults import Draw, faulty_bytes, faulty_json, odd_place

_SETTINGS = {"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 3}
_TOKENIZER_CONFIG = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())
# More keys that such a file may have, and that are read.
_CONFIG_KEYS = (
    *("rope_scaling", "rope_parameters", "attention_bias", "hidden_dropout", "attention_dropout"),
    *("pad_token_id", "quantization_config", "dtype", "partial_rotary_factor", "rope_theta"),
)
_GENERATION_KEYS = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "num_beams", "length_penalty"),
    *(
        "repetition_penalty",
        "no_repeat_ngram_size",
        "bad_words_ids",
        "sequence_bias",
        "stop_strings",
    ),
    *("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "forced_bos_token_id"),
    *(
        "exponential_decay_length_penalty",
        "early_stopping",
        "num_return_sequences",
        "guidance_scale",
    ),
    *("max_length", "min_length", "min_new_tokens", "pad_token_id", "renormalize_logits"),
    *("typical_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty", "num_beam_groups"),
)
_TOKENIZER_KEYS = (
    *("chat_template", "added_tokens_decoder", "add_bos_token", "add_eos_token", "extra_ids"),
    *("additional_special_tokens", "model_max_length", "legacy", "sp_model_kwargs"),
)


def _of_json(kind: str, path: str, content: object, names: tuple[str, ...], draw: Draw) -> Case:
    data = json.dumps(content).encode()
    how = draw(st.sampled_from(("json",) * 6 + ("bytes", "place")))
    if how == "json":
        edit = Edit(path, "bytes", faulty_json(draw, content, names))
    elif how == "bytes":
        edit = Edit(path, "bytes", faulty_bytes(draw, data))
    else:
        edit = odd_place(draw, path)
    program, args, stdin = of_model(draw)
    return Case(kind, program, args, ("model", "texts"), (edit,), stdin)


KINDS: dict[str, Callable[[Draw], Case]] = {
    kind: partial(_of_json, kind, f"model/{kind}", content, names)
    for kind, content, names in (
        ("config.json", CONFIG, _CONFIG_KEYS),
        ("generation_config.json", _SETTINGS, _GENERATION_KEYS),
        ("tokenizer_config.json", _TOKENIZER_CONFIG, _TOKENIZER_KEYS),
    )
}
