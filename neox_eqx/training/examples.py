"""What a model is fine-tuned on, as texts: a file of lines, or a dataset of Hugging Face."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.text.files import json_line
from neox_eqx.unicode import check_unicode

# The fields of each kind of example, the learnt one last. Others may stand beside them; where
# several kinds fit, the first counts.
_KINDS = (("question", "answer"), ("prompt", "completion"), ("text",))


@dataclasses.dataclass(frozen=True)
class Example:
    """One text to learn from."""

    number: int
    """Of its line in the file, from 1, or of its row in the dataset, from 0."""
    prompt: str | None
    """What generation is given; None where the whole text is learnt."""
    completion: str
    """What is learnt after it. An answer begins on a new line, which the model writes itself, so
    that the prompt of a question is the bare question."""
    is_answer: bool = False
    """Whether the prompt is a question, of whose answer the end counts, after `####`."""


def read_examples(path: Path) -> list[Example]:
    """The examples of a .jsonl file, or of a directory that `datasets` saved with save_to_disk.

    Each is {"question", "answer"}, as in GSM8K, {"prompt", "completion"} or {"text"}, and all are
    of the same kind. Blank lines are left out.

    Raises:
        InputError: something cannot be read, is no such example, or is empty; the message has
            its number.
    """
    rows = _dataset(path) if os.path.isdir(path) else _lines(path)
    unit = unit_of(path)
    examples = list(_examples((number, f"{path}, {unit} {number}", row) for number, row in rows))
    if not examples:
        raise InputError(f"{path}: holds no example")
    return examples


def unit_of(path: Path) -> str:
    """What messages call an example of this file or directory, before its number."""
    return "row" if os.path.isdir(path) else "line"


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number}: is not UTF-8: {error}") from error
        if text.strip():
            yield number, json_line(path, number, text)


def _dataset(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path}: to read a directory, pip install datasets") from error
    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # of the library, of pyarrow, or of Python
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: is no dataset that save_to_disk wrote: {reason}") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise InputError(f"{path}: holds several splits; name one: {path / min(dataset)}")
    yield from enumerate(dataset)


def _examples(rows: Iterable[tuple[int, str, Mapping[str, Any]]]) -> Iterator[Example]:
    first: tuple[str, ...] | None = None
    for number, where, row in rows:
        own = next((kind for kind in _KINDS if row.keys() >= set(kind)), None)
        if own is None:
            kinds = ", or ".join(map(_listed, _KINDS))
            raise InputError(f"{where}: has {_listed(row)}; it needs {kinds}")
        first = first or own
        if own != first:
            raise InputError(f"{where}: has {_listed(own)}, and those before it {_listed(first)}")
        *prompt, completion = (_text(where, name, row[name]) for name in own)
        if not completion.strip():
            raise InputError(f"{where}: the {own[-1]} is empty, and there is nothing to learn")
        is_answer = own[-1] == "answer"
        if is_answer:
            completion = f"\n{completion}"
        yield Example(number, prompt[0] if prompt else None, completion, is_answer)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(map(repr, names)) or "no field"


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: the {name} must be a text, not {value!r:.40}")
    check_unicode(f"{where}: the {name}", value)
    return value
