"""Jinja templates that strangers wrote, rendered as transformers does, in bounded time and memory.

The environment is that of transformers' `apply_chat_template`. Beyond its sandbox, which keeps
a template from Python's insides, all that a template does is paid for: each turn of a loop, and the
size of what calls, filters and operators take and make. What costs more than a conversation can
ends in an error.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from neox_eqx.shown import shown
from neox_eqx.text.allowance import (
    RENDER,
    TooMuch,
    check_format,
    check_product,
    check_repeated,
    take,
)
from neox_eqx.text.template_globals import (
    TemplateDict,
    TemplateNamespace,
    raise_exception,
    strftime_now,
    tojson,
)

# Marks around what is learnt, within the text. Valid Unicode does not have these.
LEARNT_BEGINS, LEARNT_ENDS = "\ud800", "\ud801"


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
        self.filters["tojson"] = tojson
        self.filters = {name: _paid(function) for name, function in self.filters.items()}
        self.filters |= {"_each": _each, "_made": lambda value: RENDER.get().pay_for(value)}
        del self.globals["lipsum"]
        self.globals["dict"] = TemplateDict()
        self.globals["namespace"] = TemplateNamespace
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = strftime_now

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Billing(self).visit(template)
        return template

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        raise SecurityError(f"access to {shown(attribute, 40)} of a {type(obj).__name__} is unsafe")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            check_format(left)
        elif operator in ("*", "**"):
            check_repeated(left, right)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_product((left.bit_length(), abs(right), "a" * 10_000))
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, int) and abs(value) > 2**64:
            raise TooMuch("makes a number of more than 64 bits")
        return RENDER.get().pay_for(value)

    def call(*args: Any, **kwargs: Any) -> Any:  # as Jinja has it: no name is taken of a template's
        self, context, function, *given = args
        owner = getattr(function, "__self__", None)
        given = take([owner, *given], kwargs)[1:]
        call = super(Sandbox, self).call
        return RENDER.get().pay_for(call(context, function, *given, **kwargs))


class _Billing(NodeTransformer):
    """Rewrites a template to pay for its loops, and for values that it makes without a call."""

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


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, made to pay for its arguments and its result."""

    @functools.wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        if function.__name__ == "do_format":
            check_format(str(args[0]))
        return RENDER.get().pay_for(function(*take(list(args), kwargs), **kwargs))

    return paid


def _each(items: Iterable[Any], size: int) -> Iterator[Any]:
    """The items of a loop, paid for one by one; its body holds a text of this size."""
    for item in items:
        RENDER.get().pay(size)
        yield item
