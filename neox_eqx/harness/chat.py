"""Conversations of the harness as the texts that a chat template makes of them."""

from collections.abc import Sequence
from pathlib import Path

from neox_eqx.errors import InputError
from neox_eqx.text.messages import Message
from neox_eqx.text.named_template import NamedTemplate
from neox_eqx.text.template import ChatTemplate, load_template

_MARK = "IT GOES ON HERE "
"""Stands where the assistant goes on; a template that trims texts takes its last space away."""


class Chat:
    """The template of a directory, or another that `--apply_chat_template NAME` names."""

    def __init__(self, directory: Path, name: str | None = None):
        """Raises:
        InputError: there is none, or none of this name.
        """
        try:
            self._template: ChatTemplate = load_template(directory, name)
        except InputError as error:
            message = str(error).replace("--template", "--apply_chat_template")
            raise InputError(message) from error

    @property
    def source(self) -> str:
        """The template's source, which the harness writes into its results."""
        own = self._template
        return repr(own) if isinstance(own, NamedTemplate) else own.source

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The text up to where the assistant speaks, or to the end of what it is to continue.

        Where the template refuses a conversation it is tried without the system's messages, as
        the harness's own model does.

        Raises:
            InputError: the template refuses it.
        """
        try:
            return self._render(messages, add_generation_prompt)
        except InputError:
            others = [message for message in messages if message["role"] != "system"]
            if len(others) in (0, len(messages)):
                raise
            return self._render(others, add_generation_prompt)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        if add_generation_prompt:
            return self._template.render(messages)
        # transformers too finds the end of the message by a mark within it.
        *before, last = messages
        marked = {**last, "content": last["content"] + _MARK}
        text = self._template.render([*before, marked], add_generation_prompt=False)
        end = text.rfind(_MARK.strip())
        if end < 0:
            raise InputError("the chat template leaves out the message that is to be continued")
        kept = text[:end]
        return kept if text[end:].startswith(_MARK) else kept.rstrip()
