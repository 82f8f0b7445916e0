"""A directory's special tokens by their names: `bos_token`, `eos_token` and others."""

from pathlib import Path
from typing import Any

from neox_eqx.small_files import read_json
from neox_eqx.text.tokenizer_class import NEOX, SPECIAL_TOKENS


def special_tokens(directory: Path, *, by_default: bool = True) -> dict[str, str]:
    """What a chat template may name, as transformers gives it: a text for each name.

    From tokenizer_config.json and, in directories whose tokenizer_config.json lists no added
    tokens, from the older special_tokens_map.json; `by_default`, also what transformers gives where
    no file says.

    Raises:
        InputError: a file is broken.
    """
    config = _object(directory / "tokenizer_config.json")
    older = (
        {} if "added_tokens_decoder" in config else _object(directory / "special_tokens_map.json")
    )
    name = str(config.get("tokenizer_class") or NEOX).removesuffix("Fast")
    named = SPECIAL_TOKENS.get(name, {}) if by_default else {}
    extra = config.get("extra_special_tokens")
    for fields in (config, older, extra if isinstance(extra, dict) else {}):
        named = named | {name: value for name, value in fields.items() if name.endswith("_token")}
    texts = {name: _text(value) for name, value in named.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _text(value: Any) -> str | None:
    """Of a token that is a text or, as in older files, an object with its text as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
