"""Command lines from frozen dataclasses: a field is an option, its docstring the help."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import jax
import tyro
from jax.experimental import multihost_utils

from neox_eqx.errors import InputError, Stopped, cut, one_line
from neox_eqx.option_kinds import RULES
from neox_eqx.output import complain, written
from neox_eqx.shown import hint, shown

Options = TypeVar("Options")

# Letters of a message of tyro's, which repeats values of any length.
_LONGEST_PARAGRAPH = 600
# Seconds after which Ctrl-C is raised again in a program that goes on.
_INTERRUPT_AGAIN = 0.5
# Seconds that the first process, on which JAX's others depend, ends after them.
_FIRST_ENDS_LATER = 0.2
# Seconds to wait, so that the launcher first hears of another process that has failed.
_BLAME_LATER = 0.3


def run(
    main: Callable[[Options], None],
    options_type: type[Options],
    args: Sequence[str] | None = None,
) -> None:
    """Calls `main` with the options that `args`, by default the process's own, spell.

    A mistake in an option ends the program as `run_program` says.
    """
    program = Path(sys.argv[0]).name
    given = sys.argv[1:] if args is None else args
    run_program(program, lambda: main(parse(options_type, program, given)))


def run_program(program: str, main: Callable[[], None]) -> None:
    """Calls `main`, and ends the process as a command of the name `program` should end.

    A mistake of the user's, raised as `InputError`, ends in one line on stderr and exit status 2.
    Ctrl-C ends quietly with 130, the status that a shell gives to a program that this signal ends;
    `written` says how an output ends it. `Stopped` ends it with a line and a status of its own. A
    process of a pod that fails ends at once, and so the others do.
    """
    _interrupt_until_it_ends()
    warnings.formatwarning = lambda message, *_, **__: (
        f"{program}: warning: {one_line(str(message))}\n"
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know Korean
    try:
        with written(program):
            main()
    except InputError as error:
        if error.is_reporter is not False:
            complain(program, f"error: {error}")
        if error.is_reporter is not None:
            _end_together()
        _exit(2)
    except Stopped as stopped:
        if jax.process_index() == 0:
            complain(program, str(stopped))
        _end_together()
        _exit(stopped.status)
    except KeyboardInterrupt:
        # At once: JAX may still compute, and to take it down under that ends in a crash.
        os._exit(130)
    except SystemExit as exit:
        if exit.code:
            _exit(exit.code)
        raise
    except BaseException:
        _end_the_pod()
        raise


def _interrupt_until_it_ends() -> None:
    """Ctrl-C raises KeyboardInterrupt, and again while the program goes on.

    Once is not always enough: Python drops what is raised inside a callback of JAX's.
    """

    def interrupt(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_AGAIN)
        raise KeyboardInterrupt

    def is_dropped(report: Any) -> None:
        # A write of tensorstore's that fails leaves others, which call an event loop that is gone.
        is_late = str(report.exc_value) == "Event loop is closed"
        if report.exc_type is not KeyboardInterrupt and not is_late:
            sys.__unraisablehook__(report)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
        sys.unraisablehook = is_dropped


def _end_together() -> None:
    """Waits until all processes of the pod are here, and in the first until the others have ended.

    If one ended before, JAX would abort the others, and they would complain.
    """
    multihost_utils.sync_global_devices("the error is told")
    if jax.process_count() > 1 and jax.process_index() == 0:
        time.sleep(_FIRST_ENDS_LATER)


def _end_the_pod() -> None:
    """Shows the error that is being handled and exits, where others wait for this process."""
    if jax.distributed.is_initialized():
        traceback.print_exc()
        time.sleep(_BLAME_LATER)
        _exit(1)


def _exit(status: Any) -> None:
    """Exits; on a pod without what Python does at exit, which is to wait for the others."""
    if not jax.distributed.is_initialized():
        sys.exit(status)
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def parse(options_type: type[Options], program: str, args: Sequence[str]) -> Options:
    """The options that `args` spell; `--help` prints them and exits.

    Raises:
        InputError: an unknown option, a missing one or a wrong value.
    """
    report = io.StringIO()
    try:
        # tyro asks stdout for its encoding, which fails where it is closed.
        closed_output = (
            contextlib.nullcontext() if sys.stdout else contextlib.redirect_stdout(report)
        )
        with contextlib.redirect_stderr(report), closed_output:
            options, unknown = tyro.cli(
                options_type, prog=program, args=args, registry=RULES, return_unknown_args=True
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        # Where __post_init__ refuses the values together, tyro puts the class's name first.
        message = _first_paragraph(report.getvalue()).removeprefix(f"{options_type.__name__}: ")
        if len(message) > _LONGEST_PARAGRAPH:  # of long values, which tyro's box broke into words
            message = cut(message, _LONGEST_PARAGRAPH - 200, 200)
        raise InputError(f"{message} ({program} --help explains each option)") from None
    if unknown:
        raise InputError(_about_unknown(unknown[0], options_type, program))
    _check_repeated(options_type, args)
    return options


def _first_paragraph(box: str) -> str:
    """The message in a box of tyro's, without title, frame and the help below a rule."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    lines = [line.strip("│| ") for line in plain.splitlines()[1:]]

    def is_rule(line: str) -> bool:
        return not line.strip("─-╰╯")

    # Where the terminal has no box characters, a rule stands below the title too.
    message = itertools.takewhile(
        lambda line: not is_rule(line), itertools.dropwhile(is_rule, lines)
    )
    return " ".join(message).removeprefix("Error parsing ").rstrip(".")


def _check_repeated(options_type: type, args: Sequence[str]) -> None:
    """Refuses an option of several values that is given twice: only the last would count."""
    for option, kind in _spellings(options_type):
        times = sum(argument == option or argument.startswith(f"{option}=") for argument in args)
        if times > 1 and tuple in (get_origin(kind), *map(get_origin, get_args(kind))):
            raise InputError(f"{option} is given {times} times; give it once, with all its values")


def _spellings(options_type: type) -> Iterator[tuple[str, Any]]:
    """All options and their types, with those of dataclasses within a dataclass."""
    for field in dataclasses.fields(options_type):
        kind: Any = field.type
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _spellings(kind)
        else:
            yield "--" + field.name.replace("_", "-"), kind


def _about_unknown(argument: str, options_type: type, program: str) -> str:
    if not argument.startswith("-"):
        return f"{shown(argument)} belongs to no option ({program} --help lists them)"
    name = argument.split("=")[0]
    known = [option for option, _ in _spellings(options_type)]
    advice = hint(name, known, f"{program} --help lists the options")
    return f"there is no option {name}; {advice}"
