"""The messages of a conversation, checked: who says what."""

from collections.abc import Mapping, Sequence
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.unicode import check_unicode

ROLES = ("system", "user", "assistant", "tool")

Message = Mapping[str, Any]
"""`role` and `content`, both texts. An instruction's input may stand in `context` (of a user's
message). Other keys go to the template as they are, if their values are JSON's."""


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages, each copied to a new dict without what is None.

    Raises:
        InputError: there is none, or one has no text or no known role; it says which one.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InputError("messages must be a list of objects with role and content")
    if not messages:
        raise InputError("messages is empty; give at least one with role and content")
    return [_checked(f"message {number}", own) for number, own in enumerate(messages, 1)]


def _checked(where: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where}: must be an object with role and content, not {shown(message)}")
    fields = {name: value for name, value in message.items() if value is not None}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise InputError(f"{where}: role must be one of {', '.join(ROLES)}, not {shown(role)}")
    if not isinstance(content, str):
        raise InputError(f"{where}: content must be a text, not {shown(content)}")
    if not isinstance(fields.get("context", ""), str):
        raise InputError(f"{where}: context must be a text, not {shown(fields['context'])}")
    return {name: _plain(f"{where}: {name!s:.30}", value) for name, value in fields.items()}


def _plain(what: str, value: Any) -> Any:
    """A copy of JSON's own types: no other object, which may have methods, reaches a template."""
    if isinstance(value, str):
        check_unicode(what, value)
        return str(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(what, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_plain(what, key): _plain(what, item) for key, item in value.items()}
    raise InputError(
        f"{what} must be made of texts, numbers, lists and objects, not {shown(value)}"
    )
