"""Files of texts to score."""

from pathlib import Path

from neox_eqx.errors import InputError
from neox_eqx.scoring.encode import Text
from neox_eqx.shown import shown
from neox_eqx.text.files import byte_lines, line_content


def read_texts(path: Path) -> list[tuple[str, Text | InputError]]:
    """The lines of a file, each with its place and its text, or why it has none.

    A line is a text, or in a .jsonl file an object. That has a "text", or a "prompt" and a
    "completion"; what else it has is not read.

    Raises:
        InputError: the file cannot be read, or has no line.
    """
    texts = [(f"{path}, line {number}", _text(path, line)) for number, line in byte_lines(path)]
    if not texts:
        raise InputError(f"{path}: holds no text")
    return texts


def _text(path: Path, line: bytes) -> Text | InputError:
    try:
        content = line_content(path, line)
    except InputError as error:
        return error
    if isinstance(content, str):
        return content
    names = content.keys() & {"text", "prompt", "completion"}
    if names not in ({"text"}, {"prompt", "completion"}):
        return InputError('needs either "text" or "prompt" and "completion"')
    for name in sorted(names):
        if not isinstance(content[name], str):
            return InputError(f'"{name}" must be a text, not {shown(content[name])}')
    return content["text"] if "text" in content else (content["prompt"], content["completion"])
