"""A directory's own chat template, in Jinja."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import jinja2

from neox_eqx.errors import InputError
from neox_eqx.text.allowance import RENDER, Render
from neox_eqx.text.messages import Message, check_messages
from neox_eqx.text.sandbox import LEARNT_BEGINS, LEARNT_ENDS, Sandbox
from neox_eqx.unicode import check_unicode

_LONGEST_SOURCE = 1_000_000
"""Letters of a template; the longest of known models have some tens of thousands."""
_LONGEST_TEXT = 20_000_000
"""Letters of what a template writes: far beyond any model's context."""


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A template as transformers' `apply_chat_template` renders it."""

    where: str
    """The file that it is in."""
    source: str
    special_tokens: Mapping[str, str]
    """`bos_token` and others, which the template may name."""

    stop = ()
    add_special_tokens = False

    def __post_init__(self) -> None:
        if len(self.source) > _LONGEST_SOURCE:
            raise InputError(f"{self.where}: a template of {len(self.source)} characters; too long")
        check_unicode(f"{self.where}: the template", self.source)
        _ = self._compiled  # so that a broken template is an error on loading

    @cached_property
    def _compiled(self) -> jinja2.Template:
        with self._told(), _within(Render()):
            return Sandbox().from_string(self.source)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation; it ends where the assistant speaks next.

        Raises:
            InputError: a message is wrong, or the template refuses them; the line is named.
        """
        return self._render(check_messages(messages), add_generation_prompt)

    def render_learnt(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The whole text in pieces, and whether the assistant says them.

        That is what stands in the template's `generation` marks. Without marks it is what an
        assistant's message adds to the prompt for it, with the end of its turn.

        Raises:
            InputError: as `render`, or the text does not show what the assistant says.
        """
        checked = check_messages(messages)
        if re.search(r"\{%[-+]?\s*generation\b", self.source):
            return _marked(self._render(checked, add_generation_prompt=False, marks=True))
        whole = self._render(checked, add_generation_prompt=False)
        pieces, end = [], 0
        for place, message in enumerate(checked):
            if message["role"] != "assistant":
                continue
            before = self._render(checked[:place], add_generation_prompt=True) if place else ""
            after = self._render(checked[: place + 1], add_generation_prompt=False)
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= end):
                raise InputError(
                    f"{self.where}: what the assistant says is not to be seen in message "
                    f"{place + 1}: the template writes earlier messages otherwise as more follow; "
                    "it needs {% generation %} marks"
                )
            pieces += [(whole[end : len(before)], False), (whole[len(before) : len(after)], True)]
            end = len(after)
        return [piece for piece in [*pieces, (whole[end:], False)] if piece[0]]

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, marks: bool = False
    ) -> str:
        # As in apply_chat_template, names without a value are there as None.
        values = {
            **self.special_tokens,
            "messages": [_with_context(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        blocks, length = [], 0
        template = self._compiled
        with self._told(), _within(Render(marks)):
            for block in template.generate(values):
                blocks.append(block)
                length += len(block)
                if length > _LONGEST_TEXT:
                    raise InputError(f"{self.where}: makes a text of over {_LONGEST_TEXT} letters")
        return "".join(blocks)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Reports an error within the template in one line, with the template's line number."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else _line(error)
            where = f"{self.where}, line {line} of the template" if line else self.where
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            raise InputError(f"{where}: {kind}{' '.join(str(error).split()):.300}") from error


@contextmanager
def _within(render: Render) -> Iterator[None]:
    token = RENDER.set(render)
    try:
        yield
    finally:
        RENDER.reset(token)


def _line(error: Exception) -> int | None:
    """The template's line of the error, from the frames that Jinja puts into the traceback."""
    line = None
    frame = error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def _with_context(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its context below its content, as templates know of no context."""
    message = dict(message)
    context = message.pop("context", "")
    return {**message, "content": f"{message['content']}\n\n{context}"} if context else message


def _marked(text: str) -> list[tuple[str, bool]]:
    """The pieces of a text with marks around what is learnt."""
    pieces, depth = [], 0
    for piece in re.split(f"([{LEARNT_BEGINS}{LEARNT_ENDS}])", text):
        if piece in (LEARNT_BEGINS, LEARNT_ENDS):
            depth += 1 if piece == LEARNT_BEGINS else -1
        elif piece:
            pieces.append((piece, depth > 0))
    return pieces
