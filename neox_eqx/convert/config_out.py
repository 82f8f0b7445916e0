"""The config.json of a result."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.names import stored_name
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.source import CONFIG, Source


def write_config(source: Source, directory: Path, dtype: str) -> None:
    """Writes the source's config.json with what versions of transformers would miss in it.

    All of its keys stay. transformers 5 reads `rope_parameters` and `dtype`; 4 reads
    `rotary_pct`, `rotary_emb_base`, `rope_scaling` and `torch_dtype`, and would silently fall
    back to defaults that are wrong for many models. `dtype` is what was asked for, or "same".
    """
    values = _both_spellings(source.config_json)
    stated = values.get("dtype") or values.get("torch_dtype")
    values["dtype"] = values["torch_dtype"] = (
        dtype if dtype != "same" else stated or _most_common_dtype(source)
    )
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")


def _both_spellings(config_json: dict[str, Any]) -> dict[str, Any]:
    """A config.json in which the old and the new keys say the same.

    Where they did not, they now say what transformers 5 takes from them.
    """
    resolved = GPTNeoXConfig.from_hf(config_json).to_hf()
    values = dict(config_json)
    for key in ("rotary_pct", "rotary_emb_base"):
        if values.get(key) != resolved[key]:
            values[key] = resolved[key]
    # The first that transformers 5 looks at: what stands there is meant.
    values["rope_scaling"] = values.get("rope_scaling") or resolved["rope_scaling"]
    stated = values.get("rope_parameters") or {}
    values["rope_parameters"] = {**stated, **resolved["rope_parameters"]}
    return values


def _most_common_dtype(source: Source) -> str:
    """Of the parameters, by number of bytes."""
    counts: Counter[str] = Counter()
    for entry in source.entries:
        if stored_name(entry.name) is not None:
            counts[entry.dtype.name] += math.prod(entry.shape) * entry.dtype.itemsize
    return counts.most_common(1)[0][0]
