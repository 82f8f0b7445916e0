"""Messages: one line each, whatever names and values they hold."""

import pytest

from neox_eqx.errors import InputError, Stopped, one_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("model.bin: is broken;\nget it again", "model.bin: is broken; get it again"),
        ("a\x1b[31mred\x07: no such file", r"a\x1b[31mred\x07: no such file"),
        ("turned \u202e round", r"turned \u202e round"),
        ("half \ud83d of a pair", r"half \ud83d of a pair"),
        (
            "\u6a21\u578b\u3000\ud55c\uae00.json: is broken",
            "\u6a21\u578b\u3000\ud55c\uae00.json: is broken",
        ),
        (f"{200 * 'x'}: is absent", f"{120 * 'x'}...{59 * 'x'}: is absent"),
        (f"{199 * 'x'}: is absent", f"{199 * 'x'}: is absent"),
    ],
)
def test_a_message_is_one_line_that_acts_on_no_terminal(message: str, line: str) -> None:
    assert one_line(message) == line
    assert str(InputError(message)) == str(Stopped(message, 3)) == line


def test_of_a_long_path_the_beginning_and_the_file_are_told() -> None:
    path = "/models/" + "deep/" * 1000 + "config.json"
    told = str(InputError(f"{path}: cannot be read: File name too long"))
    assert told.startswith("/models/deep/") and "deep/config.json: cannot be read" in told
    assert len(told) < 250


def test_a_message_of_many_words_ends_somewhere() -> None:
    told = str(InputError("missing: " + "a.weight, " * 100_000 + "; get the file again"))
    assert len(told) < 4010 and told.endswith("get the file again")
