"""Prompts of models older than chat templates: what stands around the messages."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.text.messages import Message, check_messages


@dataclasses.dataclass(frozen=True)
class NamedTemplate:
    """A documented prompt.

    `{system}`, `{user}`, `{context}` and `{answer}` stand for messages and `{eos}` for the
    tokenizer's EOS token. Where a prompt is documented for one turn alone, more of them repeat it.
    """

    name: str
    user: str
    """A user's turn, up to where the assistant begins."""
    user_with_context: str | None = None
    """The same for an instruction with an input; if None, the input is below the instruction."""
    answer: str = "{answer}{eos}"
    """What the assistant says, with what ends it: this is learnt."""
    next: str = ""
    """What stands between an answer and the next turn."""
    begin: str = "{system}"
    """What stands before the first turn; without `{system}` there can be no system's message."""
    system: str = ""
    """The system's text where no message gives one."""
    system_with_context: str | None = None
    """The same where the first turn has an instruction's input."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, beside the EOS token."""
    eos: str = ""
    """The tokenizer's EOS token."""

    # Their makers call the tokenizer on the text, and it adds its special tokens as to any text.
    add_special_tokens = True

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation; it ends where the assistant speaks next.

        Raises:
            InputError: a message is wrong, or not in its turn.
        """
        pieces = self._pieces(check_messages(messages))
        if add_generation_prompt and pieces[-1][1]:
            raise InputError(f"template {self.name}: the last message must be the user's")
        return "".join(text for text, _ in pieces)

    def render_learnt(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The whole text in pieces, and whether the assistant says them.

        Raises:
            InputError: as `render`.
        """
        return self._pieces(check_messages(messages))

    def _pieces(self, messages: list[dict[str, Any]]) -> list[tuple[str, bool]]:
        system, turns = self._system(messages)
        pieces: list[tuple[str, bool]] = []
        before = _filled(self.begin, system=system)
        for number, message in enumerate(turns):
            role = "assistant" if number % 2 else "user"
            if message["role"] != role:
                raise InputError(
                    f"template {self.name}: the user and the assistant take turns, the user first, "
                    f"but after {number} of them comes one of {message['role']}"
                )
            if role == "user":
                pieces.append((before + self._user(message), False))
            else:
                answer = _filled(self.answer, answer=message["content"], eos=self.eos)
                pieces.append((answer, True))
                before = self.next
        return pieces

    def _system(self, messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
        """The system's text, and the turns."""
        first, *turns = messages
        if first["role"] != "system":
            return (self._standing_system(first), messages)
        if "{system}" not in self.begin:
            raise InputError(f"template {self.name}: has no place for a system's message")
        if not turns:
            raise InputError(f"template {self.name}: needs a message of the user's")
        return first["content"], turns

    def _standing_system(self, first: dict[str, Any]) -> str:
        if self.system_with_context is not None and first.get("context"):
            return self.system_with_context
        return self.system

    def _user(self, message: dict[str, Any]) -> str:
        text, context = message["content"], message.get("context", "")
        if context and self.user_with_context is None:
            text = f"{text}\n\n{context}"
        turn = self.user_with_context if context and self.user_with_context else self.user
        return _filled(turn, user=text, context=context, eos=self.eos)


def _filled(turn: str, **texts: str) -> str:
    """The turn with texts in place of names in braces; braces in the texts themselves stay."""
    return re.sub(r"\{(\w+)\}", lambda match: texts[match[1]], turn)
