"""How a program ends before its work is done."""

import re
import unicodedata

_LONGEST_WORD = 200
"""Letters of a word that is shown whole; most paths are shorter."""
_LONGEST_LINE = 1900
"""Letters of a message; with what a command prints before it, a line has 2,000 at most."""


def one_line(message: str) -> str:
    """A message as a line that is safe to print and to read, whatever names and values are in it.

    What would act on a terminal is escaped, as \\x1b. Of a word of more than 200 letters, such as a
    path, only the beginning and the end are kept.
    """
    line = " ".join(message.splitlines())
    line = re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: cut(word[0], 120, 60), line)
    # Cut before, as the text may be huge, and after, as escapes are longer.
    return _bounded("".join(map(_printable, _bounded(line))))


def _bounded(line: str) -> str:
    return cut(line, _LONGEST_LINE - 60, 57) if len(line) > _LONGEST_LINE else line


def cut(text: str, first: int, last: int) -> str:
    """The first and the last letters of a text."""
    return f"{text[:first]}...{text[-last:]}"


def _printable(letter: str) -> str:
    """The letter, or how Python spells it; of the spaces, a wide one of Japanese is printed too."""
    is_shown = letter.isprintable() or unicodedata.category(letter) == "Zs"
    return letter if is_shown else letter.encode("unicode_escape").decode()


class InputError(ValueError):
    """Something given from outside is wrong: a file, an option, a prompt.

    The message is one line that says what is wrong, where, and what to do. Command lines print
    it and exit with status 2; in a notebook it is an ordinary `ValueError`.
    """

    def __init__(self, message: str, *, is_reporter: bool | None = None):
        super().__init__(one_line(message))
        self.is_reporter = is_reporter
        """Whether this process prints it, where all of a pod raise it; else None."""


class Stopped(Exception):
    """The program ends early, in all processes of a pod together, and says why in one line.

    Command lines print the line and exit with `status`.
    """

    def __init__(self, message: str, status: int):
        super().__init__(one_line(message))
        self.status = status
