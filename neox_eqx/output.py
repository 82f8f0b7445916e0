"""A command's output that cannot be written: its reader left, or the disc is full."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written(program: str) -> Iterator[None]:
    """What is printed within is written by its end, or the process ends.

    A reader that leaves, as in `| head`, ends it with 141, the status that a shell gives to a
    program that this signal ends; an output without room in one line on stderr and status 2.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()  # so that a reader that left is noticed here
    except BrokenPipeError:
        _drop(sys.stdout)
        sys.exit(141)
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS or error.filename is not None:
            raise
        _drop(sys.stdout)
        complain(program, f"error: the output cannot be written: {error.strerror}")
        sys.exit(2)


def complain(program: str, text: str) -> None:
    """A line on stderr; where nothing can be written there, the exit status has to say it."""
    if not sys.stderr:
        return
    try:
        print(f"{program}: {text}", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Python flushes once more as it exits, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
