"""The config.json of a result."""

import json
import math
from collections import Counter
from typing import Any

from neox_eqx.checkpoint.names import stored_name
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.source import Source
from neox_eqx.rope import RopeParameters


def result_config(source: Source, dtype: str) -> dict[str, Any]:
    """The source's config.json, with the keys that either version of transformers looks for.

    All of its keys stay. transformers 5 reads `rope_parameters` and `dtype`; 4 reads
    `rotary_pct`, `rotary_emb_base`, `rope_scaling` and `torch_dtype`, and would silently fall
    back to defaults that are wrong for many models. `dtype` is what was asked for, or "same".
    """
    values = _both_spellings(source.config_json)
    stated = values.get("dtype") or values.get("torch_dtype")
    if dtype == "same":
        dtype = stated or _most_common_dtype(source)
    return {**values, "dtype": dtype, "torch_dtype": dtype}


def to_text(config_json: dict[str, Any]) -> str:
    """The text of a config.json."""
    return json.dumps(config_json, indent=2, ensure_ascii=False) + "\n"


def _both_spellings(config_json: dict[str, Any]) -> dict[str, Any]:
    """A config.json whose old and new keys say the same, with as few changes as possible.

    Where they differed, all now say what transformers 5 reads from them.
    """
    resolved = GPTNeoXConfig.from_hf(config_json).to_hf()
    values = dict(config_json)
    for key in ("rotary_pct", "rotary_emb_base"):
        if values.get(key) != resolved[key]:
            values[key] = resolved[key]
    new_alone = RopeParameters.from_hf({**values, "rope_scaling": None})
    if not values.get("rope_parameters") or new_alone != RopeParameters.from_hf(config_json):
        values["rope_parameters"] = resolved["rope_parameters"]
    # transformers 5 looks here first, so this is what is meant.
    values["rope_scaling"] = values.get("rope_scaling") or resolved["rope_scaling"]
    return values


def _most_common_dtype(source: Source) -> str:
    """Of the parameters, by number of bytes."""
    counts: Counter[str] = Counter()
    for entry in source.entries:
        if stored_name(entry.name) is not None:
            counts[entry.dtype.name] += math.prod(entry.shape) * entry.dtype.itemsize
    return counts.most_common(1)[0][0]
