"""Files of texts to score."""

from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.scoring.encode import Text
from neox_eqx.text.files import read_lines


def read_texts(path: Path) -> list[tuple[str, Text]]:
    """The texts of a file, each with its place: one a line, or an object a line of a .jsonl file.

    An object has a "text", or a "prompt" and a "completion"; what else it has is not read.

    Raises:
        InputError: the file cannot be read or a line is wrong; the message has its number.
    """
    texts = [
        (f"{path}, line {number}", _text(fields, f"{path}, line {number}"))
        for number, fields in read_lines(path)
    ]
    if not texts:
        raise InputError(f"{path}: holds no text")
    return texts


def _text(fields: str | dict[str, Any], where: str) -> Text:
    if isinstance(fields, str):
        return fields
    names = fields.keys() & {"text", "prompt", "completion"}
    if names not in ({"text"}, {"prompt", "completion"}):
        raise InputError(f'{where}: needs either "text" or "prompt" and "completion"')
    for name in sorted(names):
        if not isinstance(fields[name], str):
            raise InputError(f'{where}: "{name}" must be a text, not {fields[name]!r}')
    return fields["text"] if "text" in fields else (fields["prompt"], fields["completion"])
