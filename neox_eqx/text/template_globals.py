"""The names that chat templates find beside the conversation, as in transformers."""

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2.sandbox import SecurityError
from jinja2.utils import Namespace

from neox_eqx.shown import shown
from neox_eqx.text.allowance import check_format


class TemplateDict:
    """`dict` for templates, which reach no more of it than this."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore and without a repr."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja has it
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no name {shown(name, 40)}")


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' `tojson`: plain JSON, where Jinja's own escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    check_format(pattern)
    return datetime.now().strftime(pattern)
