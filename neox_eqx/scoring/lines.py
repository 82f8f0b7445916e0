"""The lines of a file to score, of which some may be bad: refused at the first, or passed over."""

from collections.abc import Sequence
from pathlib import Path

from neox_eqx.errors import InputError
from neox_eqx.scoring.encode import Text, encode_text
from neox_eqx.scoring.pairs import Pair
from neox_eqx.shown import shown
from neox_eqx.text.files import byte_lines, line_content
from neox_eqx.text.generator import TextGenerator


def read_texts(path: Path) -> list[tuple[str, Text | InputError]]:
    """The lines of a file: of each its name for messages, and its text or why it has none.

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


def encode_lines(
    generator: TextGenerator, texts: Sequence[Text | InputError]
) -> list[Pair | InputError]:
    """What `encode_text` makes of each text, or why it cannot be scored."""
    return [_encode(generator, text) for text in texts]


def _encode(generator: TextGenerator, text: Text | InputError) -> Pair | InputError:
    if isinstance(text, InputError):
        return text
    try:
        return encode_text(generator, text)
    except InputError as error:
        return error


def check_lines(lines: Sequence[str], found: Sequence[object], *, skip_bad: bool) -> None:
    """`found` are texts or tokens, or errors in place of them; `lines` name the line of each.

    Raises:
        InputError: names the first bad line; with `skip_bad`, only where all lines are bad.
    """
    bad = bad_lines(lines, found)
    if not bad or (skip_bad and len(bad) < len(found)):
        return
    first = next(iter(bad.values()))
    if skip_bad:
        raise InputError(f"no line can be scored; the first is {first}")
    raise InputError(f"{first}; --skip-bad scores the other lines")


def bad_lines(lines: Sequence[str], found: Sequence[object]) -> dict[int, str]:
    """The message of each error with the line that it is of, by its index."""
    return {
        index: f"{lines[index]}: {error}"
        for index, error in enumerate(found)
        if isinstance(error, InputError)
    }
