"""Files of prompts, line by line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.small_files import bounded_lines, parse_json
from neox_eqx.text.messages import check_messages
from neox_eqx.text.prompts import Prompt


def read_prompts(path: Path, options: GenerationOptions) -> list[tuple[Prompt, GenerationOptions]]:
    """The prompts of a file, one a line; a line of a .jsonl file may set options of its own.

    A line of a .jsonl file has a "prompt", or "messages" of a conversation.

    Raises:
        InputError: the file cannot be read or a line is wrong; the message has its number.
    """
    prompts = [
        (fields, options)
        if isinstance(fields, str)
        else _request(fields, f"{path}, line {number}", options)
        for number, fields in read_lines(path)
    ]
    if not prompts:
        raise InputError(f"{path}: holds no prompt")
    return prompts


def read_lines(path: Path) -> Iterator[tuple[int, str | dict[str, Any]]]:
    """The number of each line and what is on it: a text, or the object of a .jsonl file.

    Raises:
        InputError: the file cannot be read, or a line is not UTF-8 or not a JSON object.
    """
    for number, line in byte_lines(path):
        try:
            yield number, line_content(path, line)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number of each line and its bytes; an empty one of a .jsonl file is none.

    Raises:
        InputError: the file cannot be read, or a line of it is too long.
    """
    try:
        with path.open("rb") as file:
            for number, line in bounded_lines(path, file):
                if path.suffix != ".jsonl" or line.strip():
                    yield number, line.removesuffix(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def line_content(path: Path, line: bytes) -> str | dict[str, Any]:
    """What a line is in a file of this name: a text, or the object of a .jsonl file.

    Raises:
        InputError: it is not UTF-8, or not a JSON object.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8: {error}") from error
    return _json_object(text) if path.suffix == ".jsonl" else text.removesuffix("\r")


def json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object on a line of a .jsonl file."""
    try:
        return _json_object(line)
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from error


def _json_object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise InputError("is not a JSON object")
    return value


def _request(
    fields: dict[str, Any], where: str, options: GenerationOptions
) -> tuple[Prompt, GenerationOptions]:
    prompt = _prompt(fields, where)
    try:
        own = options.changed({name: _frozen(fields[name]) for name in fields})
        own.resolve({})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return prompt, own


def _prompt(fields: dict[str, Any], where: str) -> Prompt:
    """What is asked for, which is no longer among the fields then."""
    if "messages" in fields and "prompt" in fields:
        raise InputError(f'{where}: has both "prompt" and "messages"; give one of them')
    if "messages" in fields:
        try:
            return check_messages(fields.pop("messages"))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    prompt = fields.pop("prompt", None)
    if not isinstance(prompt, str):
        raise InputError(f'{where}: needs a "prompt" with a text, or "messages"')
    return prompt


def _frozen(value: Any) -> Any:
    """Tuples for the lists of JSON."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
