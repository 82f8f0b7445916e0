"""Instructions and conversations, in the fields of public datasets, as messages."""

from collections.abc import Mapping
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.text.messages import check_messages

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def instruction(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of an example of Alpaca's, {"instruction", "input", "output"}, or of Dolly's.

    Dolly calls the input "context" and the output "response". The input may be missing or empty.
    """
    asked = {name: fields.get(name) for name in ("instruction", "input", "context")}
    answer = "output" if fields.get("output") is not None else "response"
    texts = {**asked, answer: fields[answer]}
    for name, value in texts.items():
        is_optional = name in ("input", "context")
        if not isinstance(value, str) and not (is_optional and value is None):
            raise InputError(f"the {name} must be a text, not {shown(value, 40)}")
    if not fields["instruction"].strip():
        raise InputError("the instruction is empty")
    user = {"role": "user", "content": asked["instruction"]}
    context = asked["input"] or asked["context"] or ""
    if context.strip():
        user["context"] = context
    return check_messages([user, {"role": "assistant", "content": fields[answer]}])


def messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of {"messages": [{"role", "content"}]}."""
    return check_messages(_listed("messages", fields["messages"]))


def sharegpt(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of ShareGPT's {"conversations": [{"from", "value"}]}, or role and content."""
    said = []
    for number, turn in enumerate(_listed("conversations", fields["conversations"]), 1):
        speaker = turn.get("from") or turn.get("role")
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise InputError(
                f"item {number} of conversations must be from one of {', '.join(_ROLES)}, "
                f"not {shown(speaker, 40)}"
            )
        value = turn.get("value")
        said.append(
            {"role": _ROLES[speaker], "content": turn.get("content") if value is None else value}
        )
    return check_messages(said)


def _listed(name: str, value: Any) -> list[Any]:
    """The value as a list of objects; a table has a list for each of their fields instead."""
    if isinstance(value, Mapping):
        columns = list(value.values())
        if all(isinstance(column, list) for column in columns):
            if len({len(column) for column in columns}) == 1:
                rows = zip(*columns, strict=True)
                return [dict(zip(value, row, strict=True)) for row in rows]
    if not isinstance(value, list):
        raise InputError(f"the {name} must be a list of objects, not {shown(value, 40)}")
    for number, item in enumerate(value, 1):
        if not isinstance(item, Mapping):
            raise InputError(f"item {number} of {name} must be an object, not {shown(item, 40)}")
    return value
