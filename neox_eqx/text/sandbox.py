"""Jinja templates that strangers wrote, rendered as transformers does, in bounded time and memory.

The environment is that of transformers' `apply_chat_template`. Beyond its sandbox, which keeps
a template from Python's insides, all that a template does is paid for: each turn of a loop, and the
size of what calls, filters and operators take and make. What costs more than a conversation can
ends in an error.
"""

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from types import GeneratorType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# Around what is learnt, in the text. No text that is valid Unicode has them.
LEARNT_BEGINS, LEARNT_ENDS = "\ud800", "\ud801"

# A conversation of 1,000 messages and a million letters costs less than half of these.
_UNITS = 50_000_000
_UNITS_A_STEP = 500
_SECONDS = 10.0
_LARGEST_PRODUCT = 500_000_000


class TooMuch(Exception):
    """A template has done more than any conversation needs."""


class Render:
    """One rendering: what it may still do, and whether it marks what is learnt."""

    def __init__(self, marks: bool = False):
        self.marks = marks
        self._left = _UNITS
        self._deadline = time.monotonic() + _SECONDS

    def pay(self, units: int) -> None:
        self._left -= _UNITS_A_STEP + units
        if self._left < 0 or time.monotonic() > self._deadline:
            raise TooMuch("expands without bound")

    def pay_for(self, value: Any) -> Any:
        """The value, when all that is in it is paid."""
        self.pay(len(value) if isinstance(value, str) else 0)
        if isinstance(value, Mapping):
            for item in value.values():
                self.pay_for(item)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                self.pay_for(item)
        return value


RENDER: ContextVar[Render] = ContextVar("RENDER")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; what it compiles runs within a `Render` that is set in `RENDER`."""

    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=lambda value: RENDER.get().pay_for(value),
            extensions=[_Generation, loopcontrols],
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: _paid(function) for name, function in self.filters.items()}
        self.filters |= {"_each": _each, "_made": lambda value: RENDER.get().pay_for(value)}
        del self.globals["lipsum"]
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Billing(self).visit(template)
        return template

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        raise SecurityError(f"access to {attribute!r:.40} of a {type(obj).__name__} is unsafe")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator in ("*", "**"):
            _check_product((left, right))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_product((left.bit_length(), abs(right), "a" * 10_000))
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, int) and abs(value) > 2**64:
            raise TooMuch("makes a number of more than 64 bits")
        return RENDER.get().pay_for(value)

    def call(*args: Any, **kwargs: Any) -> Any:  # as Jinja has it: no name is taken of a template's
        self, context, function, *given = args
        owner = getattr(function, "__self__", None)
        given = _take([owner, *given], kwargs)[1:]
        call = super(Sandbox, self).call
        return RENDER.get().pay_for(call(context, function, *given, **kwargs))


class _Billing(NodeTransformer):
    """Has the template pay for its loops, and for what it puts together without a call."""

    def __init__(self, environment: Sandbox):
        self._environment = environment

    def _filtered(self, node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
        call = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
        call.set_environment(self._environment)
        return call

    def visit_For(self, node: nodes.For) -> nodes.Node:
        size = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = self._filtered(node.iter, "_each", nodes.Const(size))
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._filtered(node, "_made") if node.ctx == "load" else node

    def _visit_made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return self._filtered(node, "_made")

    visit_Concat = visit_List = visit_Dict = _visit_made


class _Generation(Extension):
    """`{% generation %}`: the text in it is what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        text = caller()
        return f"{LEARNT_BEGINS}{text}{LEARNT_ENDS}" if RENDER.get().marks else text


class _Dict:
    """`dict`, of which a template reaches nothing but these."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Jinja's, without names that begin with an underscore, and which shows nothing of itself."""

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
        raise SecurityError(f"a namespace has no name {name!r:.40}")


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, which pays for what it takes and makes."""

    @functools.wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        if function.__name__ == "do_format":
            _check_format(str(args[0]))
        return RENDER.get().pay_for(function(*_take(list(args), kwargs), **kwargs))

    return paid


def _each(items: Iterable[Any], size: int) -> Iterator[Any]:
    """The items of a loop whose body holds a text of this size."""
    for item in items:
        RENDER.get().pay(size)
        yield item


def _take(args: list[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments, paid for; a generator as a tuple, whose size is known."""
    args = [tuple(value) if isinstance(value, GeneratorType) else value for value in args]
    _check_product((*args, *kwargs.values()))
    return args


def _check_product(values: Iterable[Any]) -> None:
    """Pays for the values, of which none may be so often in another that memory ends."""
    sized = [len(value) for value in values if isinstance(value, str | list | tuple | dict)]
    numbers = [abs(value) for value in values if isinstance(value, int | float)]
    RENDER.get().pay(sum(sized))
    if sized and math.prod(max(1, size) for size in (*sized, *numbers)) > _LARGEST_PRODUCT:
        raise TooMuch("makes a text or a list without bound")


def _check_format(pattern: str) -> None:
    if re.search(r"\*|\d{6}", pattern):
        raise TooMuch(f"formats with a width without bound: {pattern!r:.40}")


def _tojson(
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


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    _check_format(pattern)
    return datetime.now().strftime(pattern)
