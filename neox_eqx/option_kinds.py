"""How the values of options are spelled on a command line, by their types."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import parse_json, read_text
from neox_eqx.tokenizer import id_of_text

RULES = ConstructorRegistry()


@RULES.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`T | None` is spelled as T is: leaving an option out is how to say None."""
    inner = [kind for kind in get_args(info.type) if kind is not types.NoneType]
    is_optional = info.type_origin in (types.UnionType, Union) and len(inner) == 1
    if not is_optional:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner[0], set()))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["unset"] if value is None else spec.str_from_instance(value)
        ),
    )


@RULES.primitive_rule
def _yes_no_or(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A yes or no that knows more answers: true, false or one of them."""
    kinds = [kind for kind in get_args(info.type) if kind is not types.NoneType]
    if info.type_origin not in (types.UnionType, Union) or len(kinds) != 2 or kinds[0] is not bool:
        return None
    answers = {"true": True, "false": False, **{text: text for text in get_args(kinds[1])}}
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(answers) + "}",
        instance_from_str=lambda texts: answers[texts[0]],
        is_instance=lambda value: value is None or value in answers.values(),
        str_from_instance=lambda value: ["unset" if value is None else str(value).lower()],
        choices=tuple(answers),
    )


@RULES.primitive_rule
def _texts(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An option that may be a list of texts or of other things takes texts on a command line."""
    kinds = get_args(info.type)
    is_mixed = info.type_origin is tuple and len(kinds) == 2 and str in get_args(kinds[0])
    if not is_mixed or kinds[1] is not Ellipsis:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[TEXT ...]",
        instance_from_str=tuple,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(text) for text in value],
    )


@RULES.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An empty path, as from an unset shell variable, is refused: Path would make it '.'."""
    if info.type is not Path:
        return None

    def read(texts: list[str]) -> Path:
        if not texts[0]:
            raise ValueError("an empty text is no path")
        return Path(texts[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A mapping from ids to numbers is the JSON object in a file."""
    if info.type_origin is not Mapping:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=lambda texts: _numbers_by_id(Path(texts[0])),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def _numbers_by_id(path: Path) -> dict[int, float]:
    text = read_text(path, by_user=True)
    try:
        entries = parse_json(text, pairs=tuple)  # a dict would hide what comes twice
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(entries, tuple):
        raise InputError(f"{path}: holds no JSON object")
    numbers: dict[int, float] = {}

    def where() -> str:
        """The line of the wrong entry; for all of 50,000 entries this would take a minute."""
        line = text.count("\n", 0, text.rfind(json.dumps(key, ensure_ascii=False))) + 1
        return f"{path}, line {line}"

    for key, value in entries:
        id = id_of_text(key)
        if id is None:
            raise InputError(f"{where()}: {shown(key)} is not a token id")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{where()}: {shown(value, 40)} is not a number")
        if id in numbers:
            raise InputError(f"{where()}: the token id {id} is there a second time")
        numbers[id] = value
    return numbers


@RULES.primitive_rule
def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """So many numbers, or any number of them, one after the other."""
    kinds = get_args(info.type)
    is_open = len(kinds) == 2 and kinds[1] is Ellipsis
    kinds = kinds[:1] if is_open else kinds
    if info.type_origin is not tuple or not kinds or not set(kinds) <= {int, float}:
        return None
    each = [_number(PrimitiveTypeInfo.make(kind, set())) for kind in kinds]
    specs = [spec for spec in each if isinstance(spec, PrimitiveConstructorSpec)]

    def read(texts: list[str]) -> tuple[Any, ...]:
        own = specs * len(texts) if is_open else specs
        return tuple(spec.instance_from_str([text]) for spec, text in zip(own, texts, strict=True))

    metavar = " ".join(str(spec.metavar) for spec in specs)
    return PrimitiveConstructorSpec(
        nargs="*" if is_open else len(specs),
        metavar=f"[{metavar} ...]" if is_open else metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple) and (is_open or len(value) == len(each)),
        str_from_instance=lambda value: [str(number) for number in value],
    )


@RULES.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number; a wrong one gets an error in plain words."""
    if info.type not in (int, float):
        return None
    kind, wanted = (int, "a whole number") if info.type is int else (float, "a number")

    def read(texts: list[str]) -> int | float:
        try:
            return kind(texts[0])
        except ValueError:
            raise ValueError(f"{shown(texts[0])} is not {wanted}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="N" if kind is int else "X",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | kind),
        str_from_instance=lambda value: [str(value)],
    )
