"""What a model is fine-tuned on: texts, completions after prompts, and conversations."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.text.messages import Message
from neox_eqx.text.prompts import Prompt
from neox_eqx.training.data.conversations import instruction, messages, sharegpt
from neox_eqx.training.data.hf_rows import dataset_rows, is_dataset
from neox_eqx.training.data.rows import Row, file_rows
from neox_eqx.unicode import check_unicode

# The fields of each kind of example; others may stand beside them, such as an instruction's input.
# Where several kinds fit, the first counts: data with an instruction and a text repeat the one in
# the other.
_KINDS = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("messages",),
    ("conversations",),
    ("instruction", "output"),
    ("instruction", "response"),
    ("text",),
)
_CONVERSATIONS = {"messages": messages, "conversations": sharegpt, "instruction": instruction}


@dataclasses.dataclass(frozen=True)
class Example:
    """One text to learn from, as it is or as a template will write it."""

    number: int
    """Of its line or item in the file, from 1, or of its row in a table, from 0."""
    prompt: str | None
    """What generation is given; None where the whole text is learnt."""
    completion: str
    """What is learnt after it. An answer begins on a new line, which the model writes itself, so
    that the prompt of a question is the bare question."""
    is_answer: bool = False
    """Whether the prompt is a question as in GSM8K, whose answer gives its result after `####`."""
    messages: tuple[Message, ...] = ()
    """What a template makes the text of, in place of a prompt; the completion is then what the
    assistant says last."""
    unit: str = "line"
    """What error messages call the example, before its number."""

    @property
    def asked(self) -> Prompt | None:
        """What generation is given; None where nothing stands before what is learnt."""
        if not self.messages:
            return self.prompt
        roles = [message["role"] for message in self.messages]
        last = len(roles) - 1 - roles[::-1].index("assistant")
        return list(self.messages[:last]) or None


def read_examples(source: Path) -> list[Example]:
    """The examples of a file or of a dataset of Hugging Face, all of one kind.

    Each has a question and an answer, as in GSM8K, a prompt and a completion, messages,
    conversations as in ShareGPT, an instruction and an output, as in Alpaca, or a response, as in
    Dolly, or a text. Files are read by `file_rows`, datasets by `dataset_rows`.

    Raises:
        InputError: something cannot be read, is no such example, or is empty; the message has
            its number.
    """
    rows = dataset_rows(source) if is_dataset(source) else file_rows(source)
    examples = list(_examples(source, rows))
    if not examples:
        raise InputError(f"{source}: holds no example")
    return examples


def _examples(source: Path, rows: Iterable[Row]) -> Iterator[Example]:
    first: tuple[str, ...] | None = None
    for row in rows:
        try:
            own = _kind(row.fields)
            first = first or own
            if own != first:
                raise InputError(f"has {_listed(own)}, and those before it {_listed(first)}")
            yield _example(row, own)
        except InputError as error:
            raise InputError(f"{source}, {row.unit} {row.number}: {error}") from error


def _kind(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a row's kind; a table has columns for every kind, with None in the others."""
    given = {name for name, value in fields.items() if value is not None}
    for names in (given, fields.keys()):
        for kind in _KINDS:
            if names >= set(kind):
                return kind
    kinds = ", or ".join(map(_listed, _KINDS))
    raise InputError(f"has {_listed(fields):.200}; it needs {kinds}")


def _example(row: Row, kind: tuple[str, ...]) -> Example:
    read = _CONVERSATIONS.get(kind[0])
    if read:
        said = read(row.fields)
        answers = [one["content"] for one in said if one["role"] == "assistant"]
        if not any(answer.strip() for answer in answers):
            raise InputError("the assistant says nothing, and there is nothing to learn")
        return Example(row.number, None, answers[-1], messages=tuple(said), unit=row.unit)
    *prompt, completion = (_text(name, row.fields[name]) for name in kind)
    if not completion.strip():
        raise InputError(f"the {kind[-1]} is empty, and there is nothing to learn")
    is_answer = kind[-1] == "answer"
    if is_answer:
        completion = f"\n{completion}"
    return Example(row.number, prompt[0] if prompt else None, completion, is_answer, unit=row.unit)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(map(repr, names)) or "no field"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"the {name} must be a text, not {shown(value, 40)}")
    check_unicode(f"the {name}", value)
    return value
