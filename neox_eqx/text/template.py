"""The chat template of a directory, or one of those that `--template` names."""

import dataclasses
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.origin import has_tokenizer
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown
from neox_eqx.small_files import read_json, read_text
from neox_eqx.text.jinja_template import JinjaTemplate
from neox_eqx.text.named_template import NamedTemplate
from neox_eqx.text.template_names import NAMED_TEMPLATES
from neox_eqx.text.tokenizer import load_tokenizer
from neox_eqx.text.tokenizer_class import NEOX, SPECIAL_TOKENS

ChatTemplate = JinjaTemplate | NamedTemplate
"""How a conversation is written for a model.

`render` gives the text of a prompt, and `render_learnt` says what of it the assistant says. `stop`
are texts that end an answer, beside the EOS tokens. `add_special_tokens` says whether the tokenizer
adds its special tokens; if not, the text has them already.
"""


def load_template(directory: Path, name: str | None) -> ChatTemplate:
    """The directory's own template or, by its name, another of its own or a documented one.

    Raises:
        InputError: there is none, none of this name, or a file is broken.
    """
    own = _own_templates(directory)
    if (name or "default") in own:
        where, source = own[name or "default"]
        return JinjaTemplate(where, source, special_tokens(directory))
    known = [*own, *(template.name for template in NAMED_TEMPLATES)]
    if name is None:
        raise InputError(
            f"{directory}: has no chat template; give --template NAME, one of {few(known)}"
        )
    for template in NAMED_TEMPLATES:
        if template.name == name:
            return dataclasses.replace(template, eos=_eos(directory))
    raise InputError(f"there is no template {shown(name)}; there are {few(known)}")


def _eos(directory: Path) -> str:
    """The text of the EOS token: what the files name, else that of the id in config.json.

    transformers has a default where no file names one, but the vocabulary may not have that token.
    """
    named = special_tokens(directory, by_default=False).get("eos_token")
    config = directory / "config.json"
    if named is not None:
        return named
    if config.exists() and has_tokenizer(directory):
        eos = read_json(config).get("eos_token_id")
        vocabulary = load_tokenizer(directory).get_vocab(with_added_tokens=True)
        for token, id in vocabulary.items():
            if id == eos:
                return token
    return special_tokens(directory).get("eos_token", "")


def _own_templates(directory: Path) -> dict[str, tuple[str, str]]:
    """The file and the source of each template, by name; "default" is the one without a name.

    As in transformers, separate files go before tokenizer_config.json. chat_template.json, which
    is a processor's, counts where there is nothing else.
    """
    found = {}
    default = directory / "chat_template.jinja"
    if default.exists():
        found["default"] = (str(default), read_text(default))
    for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        found[path.name.removesuffix(".jinja")] = (str(path), read_text(path))
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = directory / name
        if not found and path.exists():
            found = _in_json(path, read_json(path).get("chat_template"))
    return found


def _in_json(path: Path, value: Any) -> dict[str, tuple[str, str]]:
    """The templates of a JSON file: a text, or a list of objects with name and template."""
    if value is None:
        return {}
    each = [{"name": "default", "template": value}] if isinstance(value, str) else value
    if not isinstance(each, list):
        raise InputError(f"{path}: chat_template must be a text or a list, not {shown(value)}")
    found = {}
    for own in each:
        pair = (own.get("name"), own.get("template")) if isinstance(own, dict) else (None, None)
        if not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise InputError(f"{path}: a chat_template needs name and template, not {shown(own)}")
        found[pair[0]] = (f"{path}: chat_template", pair[1])
    return found


def special_tokens(directory: Path, *, by_default: bool = True) -> dict[str, str]:
    """The special tokens that a chat template may name, by their names: those of transformers.

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
    """The text of a token; in older files it is an object with its text as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
