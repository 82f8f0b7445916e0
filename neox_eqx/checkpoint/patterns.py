"""Regular expressions that come with a checkpoint, over the names of its modules.

Python may take exponential time for one that is made for that, as `(a|aa)*b` over a few dozen
letters.
"""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown

_SECONDS = 2
"""Of the process's own time; to read a pattern and match a name takes some microseconds."""


def fullmatch(pattern: str, name: str) -> re.Match[str] | None:
    """As `re.fullmatch`.

    Raises:
        InputError: the pattern is no regular expression, or takes too long.
    """
    compiled = check_pattern(pattern)
    with _bounded(pattern):
        return compiled.fullmatch(name)


@lru_cache(maxsize=4096)
def check_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression that a pattern is.

    Raises:
        InputError: it is none, or so large or deep that Python refuses it.
    """
    try:
        with _bounded(pattern):
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = shown(str(error), 100)
        raise InputError(f"{shown(pattern)} is no regular expression: {reason}") from error


@contextlib.contextmanager
def _bounded(pattern: str) -> Iterator[None]:
    """Ends the block after `_SECONDS` by a signal, which Python looks for as it matches.

    Signals come to the main thread alone: in another the block takes as long as it takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise InputError(
            f"the regular expression {shown(pattern)} takes more than {_SECONDS} seconds"
        )

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
