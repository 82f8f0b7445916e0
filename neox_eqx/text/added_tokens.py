"""Tokens that the small files beside a vocabulary name, in transformers' order of precedence.

They are tokenizer_config.json and, where that has no `added_tokens_decoder`, the older
special_tokens_map.json and added_tokens.json; see `PreTrainedTokenizerBase._from_pretrained` of
transformers 5.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json
from neox_eqx.tokenizer import MOST_IDS

CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"

_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_PROPERTIES = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")

_Token = str | AddedToken
"""A token given as a text alone is a special token."""

_Entry = tuple[Any, _Token | None, Path]
"""What should be an id, its token, and the file that says so."""


@dataclasses.dataclass(frozen=True)
class AddedTokens:
    """Special tokens with a role are in `named`, others in `extra`; `by_id` has any tokens."""

    named: dict[str, _Token | None]
    extra: list[_Token]
    by_id: dict[int, AddedToken]

    def with_role(self, role: str, defaults: Mapping[str, str]) -> str | None:
        """The special token of a role; `defaults` are those of the tokenizer's class."""
        token = {**defaults, **self.named}.get(role)
        return str(token) if token else None

    def in_order(self, defaults: Mapping[str, str], known: Sequence[str]) -> list[AddedToken]:
        """What transformers adds to a tokenizer that has the added tokens `known`, in its order.

        `defaults` are the special tokens of the tokenizer's class, by role. A token that is there
        twice, as a text and with properties, gets those of the last.
        """
        roles = {**defaults, **self.named}
        named = [roles.get(role) for role in dict.fromkeys((*_ROLES, *roles))]
        special = [token for token in named if token and str(token)]
        tokens: list[_Token] = [token for _, token in sorted(self.by_id.items())]
        there = {*known, *map(str, tokens)}
        for token in (*special, *self.extra):
            if str(token) not in there and token not in tokens:
                tokens.append(token)
        contents = set(map(str, special))
        whole = [_special(token) if isinstance(token, str) else token for token in tokens]
        for token in whole:
            token.special = token.special or token.content in contents
        return whole


def read_added_tokens(
    directory: Path, options: Mapping[str, Any], in_file: Sequence[Mapping[str, Any]] = ()
) -> AddedTokens:
    """The added tokens of a directory.

    `options` are the object of its tokenizer_config.json and `in_file` the added tokens of its
    tokenizer.json.

    Raises:
        InputError: a file is not JSON or describes no token, or ids collide.
    """
    config = directory / CONFIG
    named = {key: _token(value, config) for key, value in options.items() if _is_role(key, value)}
    listed = options.get("extra_special_tokens") or options.get("additional_special_tokens") or []
    has_list = "extra_special_tokens" in options or "additional_special_tokens" in options
    extra = _extra(listed, named, config)
    if "added_tokens_decoder" in options:
        decoder = _object(options["added_tokens_decoder"], config)
        numbered = [(_number(key), _token(value, config), config) for key, value in decoder.items()]
        return AddedTokens(named, extra, _by_id(numbered))
    path = directory / SPECIAL_MAP
    of_map = read_json(path) if path.is_file() else {}
    named |= {key: _token(value, path) for key, value in of_map.items() if _is_role(key, value)}
    extra += _extra(of_map.get("extra_special_tokens") or [], named, path)
    special = {str(token) for token in (*named.values(), *extra) if token}
    if not has_list:
        extra += _extra(of_map.get("additional_special_tokens") or [], named, path)
    path = directory / ADDED
    by_text = read_json(path) if path.is_file() else {}
    entries: list[_Entry] = [
        (id, _added(text, text in special), path) for text, id in by_text.items()
    ]
    path = directory / "tokenizer.json"
    entries += [(entry.get("id"), _token(entry, path), path) for entry in in_file]
    return AddedTokens(named, extra, _by_id(entries))


def _by_id(entries: Iterable[_Entry]) -> dict[int, AddedToken]:
    """The tokens by their ids; where one is listed twice, the last counts.

    Raises:
        InputError: an id is no number or absurd, or two tokens or two ids collide.
    """
    tokens: dict[int, AddedToken] = {}
    ids: dict[str, int] = {}
    for id, token, path in entries:
        if isinstance(id, bool) or not isinstance(id, int):
            raise InputError(f"{path}: an added token's id is {shown(id)}, which is no number")
        if not isinstance(token, AddedToken):
            raise InputError(f"{path}: the token {shown(token)} of the id {id} is no JSON object")
        text = shown(token.content)
        if not 0 <= id < MOST_IDS:
            raise InputError(
                f"{path}: the id {shown(id, 30)} of {text} is not from 0 to {MOST_IDS - 1}"
            )
        other = tokens.setdefault(id, token).content
        if other != token.content:
            raise InputError(f"{path}: the id {id} of {text} is also that of {shown(other)}")
        if ids.setdefault(token.content, id) != id:
            raise InputError(f"{path}: {text} has two ids, {ids[token.content]} and {id}")
        tokens[id] = token
    return tokens


def _number(key: str) -> int | str:
    """The number in a key of a JSON object, or else the key."""
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 20 else key


def _added(text: str, is_special: bool) -> AddedToken:
    return AddedToken(text, normalized=not is_special, special=is_special)


def _is_role(key: str, value: Any) -> bool:
    """Whether a key is the role of a special token: a usual one, or `image_token` and the like."""
    return key in _ROLES or (key.endswith("_token") and isinstance(value, str | dict))


def _extra(values: Any, named: dict[str, _Token | None], path: Path) -> list[_Token]:
    """Special tokens without a role; where they are an object, its keys are their roles."""
    if isinstance(values, dict):
        named |= {role: _token(value, path) for role, value in values.items()}
        return []
    if not isinstance(values, list):
        raise InputError(f"{path}: the special tokens {shown(values)} are not a list")
    tokens = [_token(value, path) for value in values]
    return [token for token in tokens if token]


def _token(value: Any, path: Path) -> _Token | None:
    """A token as these files write it: its text, or an object of its properties."""
    if value is None or isinstance(value, str):
        return value
    fields = {key: each for key, each in _object(value, path).items() if key in _PROPERTIES}
    try:
        return AddedToken(fields.pop("content"), **fields)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: {shown(value, 120)} describes no token: {error}") from error


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True)


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {shown(value)} stands where a JSON object is expected")
    return value
