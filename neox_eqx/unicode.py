"""Refuses texts that cannot be encoded."""

from neox_eqx.errors import InputError
from neox_eqx.shown import shown


def check_unicode(what: str, text: str) -> None:
    """Refuses a text with half of a surrogate pair, which JSON and command lines can hold.

    Raises:
        InputError: names what it is, and how it begins; also of what is no text.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be a text, not {shown(text)}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{what} {text[:30]!r} is not valid Unicode; encode it as UTF-8")
