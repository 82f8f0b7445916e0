"""A conversation on the terminal, or through a pipe: a line in, an answer out."""

import io
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator

from neox_eqx.errors import InputError
from neox_eqx.text.conversation import AnswerFailed, Conversation

_LONGEST_LINE = 1_000_000
"""Letters; far beyond any model's context."""


def converse(conversation: Conversation, first: Iterable[str] = (), *, stream: bool = True) -> None:
    """Prints an answer to each of the `first` lines, and then to each line of stdin until it ends.

    It warns of an answer that fails, and goes on without it.

    Raises:
        InputError: a line is no text, or the conversation no longer fits into the context; or at
            the end, an answer failed.
    """
    failed: dict[int, AnswerFailed] = {}
    for count, line in enumerate(itertools.chain(first, _lines()), 1):
        pieces = conversation.say(line)
        try:
            for piece in pieces if stream else ["".join(pieces)]:
                print(piece, end="", flush=True)
        except AnswerFailed as error:
            failed[count] = error
            warnings.warn(f"answer {count} failed: {error}", stacklevel=2)
        print(flush=True)
    if failed:
        number, why = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {count} answers failed, the first, {number}: {why}")


def _lines() -> Iterator[str]:
    """The lines of stdin that are not empty; on a terminal, the prompt goes to stderr."""
    if sys.stdin is None:
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no Unicode gets its own error
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE:
            raise InputError(f"a line has more than {_LONGEST_LINE} letters: {line[:30]!r}...")
        if line.strip():
            yield line.rstrip("\r\n")
        elif not line:
            break
    if asks:
        print(file=sys.stderr)
