"""Faults of files, drawn: in what a JSON file says, in bytes, and in what stands in a place."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.case import Edit

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Texts as JSON, so that also what Python would not write can stand in a file.
NUMBERS = (
    *("0", "-1", "1", "2", "7", "64", "511", "512", "513", "2147483647", "2147483648"),
    *("4294967296", "4294967301", "9223372036854775807", "18446744073709551616", "-2147483649"),
    *("1" + "0" * 400, "9" * 5000, "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e308"),
    *("1e-320", "-0.0", "0.5", "1.5", "3.0", "1e16", "1e-5", "0.9999999"),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "0",
        "true",
        "null",
        "none",
        "auto",
        "\0",
        "a\nb\r\x1b[31mred\x1b[0m",
        "\ud800",
    ),
    *("\u202e\u2028\u0085", "é" * 300, "x" * 300, "x" * 70_000, "/etc/hostname", "../../../secret"),
    *(
        "/dev/zero",
        "~root",
        "~nobody_there/x",
        "%s%n{0}{x}",
        "{{ 7 * 7 }}",
        "$HOME",
        "gelu",
        "float16",
    ),
    *("model", "<|endoftext|>", "👍🏽", "(a+)+$", "*", "**/*", "C:\\x", "somebody/tiny"),
)
DEEP = 100_000
_MOST_KEYS = 40
_ODD_KEYS = ("", "x", "\0", "a\nb", "\x1b[31m", "x" * 300, "x" * 5000, "0", "9" * 5000, "\ud800")


def json_texts() -> st.SearchStrategy[str]:
    """Values that stand where others belong, as JSON."""
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(TEXTS).map(json.dumps),
        st.sampled_from(
            (
                *(
                    "null",
                    "true",
                    "false",
                    "[]",
                    "{}",
                    "[null]",
                    "[[]]",
                    "[{}]",
                    '{"": ""}',
                    "[0, 0]",
                ),
                *('["", "x"]', '{"a": {"b": [1, 2]}}', "[" * DEEP + "]" * DEEP, "[" * DEEP),
                *('{"x":' * 990 + "1" + "}" * 990, "[" * 900 + "1" + "]" * 900),
                *("[" + "0," * 50_000 + "0]", "[" + '"x",' * 50_000 + '"x"]'),
                *('{"a": 1, "a": 2}', "", "undefined", "'x'", '"unclosed', "[1,]", "{,}", "0x10"),
            )
        ),
        st.integers().map(str),
        st.floats().map(repr),
        st.text(max_size=20).map(json.dumps),
        st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
    )


def faulty_json(draw: Draw, content: Any, names: tuple[str, ...] = ()) -> bytes:
    """The JSON of a value with one to three faults; `names` are more keys that it may get."""
    text, faults = with_faults(draw, content, names, json_texts())
    dumped = json.dumps(text, ensure_ascii=draw(st.booleans()))
    for mark, value in faults.items():
        dumped = dumped.replace(f'"{mark}"', value)
    return dumped.encode("utf-8", "surrogatepass")


def with_faults(
    draw: Draw, content: Any, names: tuple[str, ...], values: st.SearchStrategy[str]
) -> tuple[Any, dict[str, str]]:
    """A value of JSON with marks in it, and the texts that are to stand in the place of each."""
    holder = {"": copy.deepcopy(content)}  # so that the value as a whole has a place too
    faults: dict[str, str] = {}
    for number in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        mark = f"@fault {number}@"
        inner, key = _draw_place(draw, holder)
        what = draw(
            st.sampled_from(
                ("replace", "replace", "replace", "remove", "add", "move", "rename", "rename")
            )
        )
        if what == "remove" and inner is not holder:
            del inner[key]
        elif what == "move":
            other, place = _draw_place(draw, holder)
            inner[key] = copy.deepcopy(other[place])
        elif what == "rename" and isinstance(inner, dict) and inner is not holder:
            inner[draw(st.sampled_from(_ODD_KEYS))] = inner.pop(key)
        elif what == "add" and isinstance(inner[key], dict):
            inner[key][draw(st.sampled_from(names or _ODD_KEYS))] = mark
            faults[mark] = draw(values)
        else:
            inner[key] = mark
            faults[mark] = draw(values)
    return holder[""], faults


def _draw_place(draw: Draw, holder: Any) -> tuple[Any, Any]:
    """A container within a value and the key or index of something in it: any, as often as another.

    Of very many that are alike, as the words of a vocabulary, it is one of the first or the last.
    """
    return draw(st.sampled_from(list(_places(holder, ""))))


def _places(holder: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    yield holder, key
    inner = holder[key]
    keys = list(inner) if isinstance(inner, dict) else []
    keys = list(range(len(inner))) if isinstance(inner, list) else keys
    if len(keys) > _MOST_KEYS:
        keys = [*keys[:3], keys[-1]]
    for each in keys:
        yield from _places(inner, each)


def faulty_bytes(draw: Draw, content: bytes) -> bytes:
    """Bytes with one to three faults: cut, flipped, overwritten, doubled, of another encoding."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        if draw(st.booleans()):
            start = min(start, draw(st.integers(0, 64)))  # the beginning says how the rest is read
        length = draw(st.sampled_from((1, 2, 4, 8, 16, 256)))
        before, after = content[:start], content[start:]
        what = draw(st.sampled_from(("cut", "flip", "write", "insert", "double", "drop", "whole")))
        if what == "cut":
            content = before
        elif what == "flip":
            flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in after[:1])
            content = before + flipped + after[1:]
        elif what == "write":
            content = before + draw(_blocks(length)) + after[length:]
        elif what == "insert":
            content = before + draw(_blocks(length)) + after
        elif what == "double":
            content = before + after[:length] * draw(st.sampled_from((2, 1000))) + after
        elif what == "drop":
            content = before + after[length:]
        else:
            content = draw(st.sampled_from(_wholes(content)))
    return content


def _blocks(length: int) -> st.SearchStrategy[bytes]:
    fixed = (b"\0" * length, b"\xff" * length, b"\x7f" * length, b"\x80" + b"\0" * (length - 1))
    return st.one_of(st.sampled_from(fixed), st.binary(min_size=length, max_size=length))


def _wholes(content: bytes) -> tuple[bytes, ...]:
    text = content.decode("latin-1")
    return (
        *(b"", b"\0" * 100, b"\xef\xbb\xbf" + content, content[::-1], content + content),
        *(text.encode("utf-16"), text.encode("utf-32-le"), content + b"\n" * 1000),
        *(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            b"<html>404</html>",
        ),
        *(b"\x1f\x8b\x08" + content, b"PK\x03\x04" + content, b"\x80\x02" + content),
    )


def odd_place(draw: Draw, path: str) -> Edit:
    """Something else in the place of a file."""
    # A file that a user names may be a pipe, and then is waited for.
    pipes = (Edit(path, "fifo"),) if "/" in path else ()
    return draw(
        st.sampled_from(
            (
                *(Edit(path, "remove"), Edit(path, "directory"), *pipes),
                *(Edit(path, "link", to) for to in (b"nowhere", b"/dev/null", b"..", b"/dev/zero")),
                *(
                    Edit(path, "link", to)
                    for to in (path.rsplit("/", 1)[-1].encode(), b"/proc/self/mem")
                ),
                *(Edit(path, "hole", size) for size in (b"1000", b"3000000000", b"100000000000")),
            )
        )
    )
