"""The command `neox-eqx`: it finds the command that is asked for, and imports that one alone.

Nothing is imported here that takes time: help is there at once, and Ctrl-C is noticed from then on.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from neox_eqx import __version__
from neox_eqx.errors import InputError
from neox_eqx.output import complain, written
from neox_eqx.shown import hint, shown

COMMANDS = {
    "generate": "texts that go on from prompts, or a conversation (--chat)",
    "score": "how likely a model finds each token of texts",
    "train": "fine-tuning: of all parameters, with LoRA or with a soft prompt",
    "convert": "a checkpoint from one layout to another, bit for bit, with a certificate",
    "plan": "what a model takes on a TPU that is not there, by the TPU's own compiler",
    "benchmark": "times of prefill and decode, beside transformers if asked",
    "evaluate": "EleutherAI's lm-evaluation-harness with a model",
}
_PROGRAM = "neox-eqx"
# What to install for a command beyond what all of them need.
_EXTRAS = {"train": "train", "plan": "plan", "evaluate": "eval"}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command that `args`, by default the process's own, begin with, or lists them all."""
    first, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if first in COMMANDS:
        run_command(first, f"{_PROGRAM} {first}", rest)
    elif first in ("-h", "--help", "help"):
        _print(about())
    elif first == "--version":
        _print(f"{_PROGRAM} {__version__}")
    else:
        advice = hint(first, COMMANDS, f"{_PROGRAM} --help lists the commands")
        complain(_PROGRAM, f"error: there is no command {shown(first)}; {advice}")
        sys.exit(2)


def run_command(name: str, program: str | None = None, args: Sequence[str] | None = None) -> None:
    """Runs a command with `args`, under the name `program`: by default the process's own."""
    called = Path(sys.argv[0]).name if program is None else program
    given = sys.argv[1:] if args is None else args
    gc.disable()  # what is imported stays, and to look through it takes a tenth of a start
    try:
        from neox_eqx.command_line import run_program
    except KeyboardInterrupt:
        os._exit(130)  # as run_program ends

    def start() -> None:
        from neox_eqx.programs import keep_programs

        keep_programs(called)
        command = _find(name)
        gc.freeze()
        gc.enable()
        command(called, given)

    run_program(called, start)


def about() -> str:
    """The commands, a line for each."""
    width = max(map(len, COMMANDS)) + 4
    return "\n".join(
        [
            f"usage: {_PROGRAM} COMMAND [OPTIONS]",
            "",
            "GPT-NeoX models in JAX and Equinox, right to the token.",
            "",
            *(f"  {name}".ljust(width) + text for name, text in COMMANDS.items()),
            "",
            f"{_PROGRAM} generate, without options, shows the bundled model at work.",
            f"{_PROGRAM} COMMAND --help explains the options of a command, {_PROGRAM} --version",
            "tells the version, and README.md leads to the guide.",
        ]
    )


def _print(text: str) -> None:
    with written(_PROGRAM):
        print(text)


def _find(name: str) -> Callable[[str, Sequence[str]], None]:
    """
    Raises:
        InputError: a library that the command needs is not installed.
    """
    try:
        return importlib.import_module(f"neox_eqx.cli.{name}").command
    except ModuleNotFoundError as error:
        missing = (error.name or "neox_eqx").split(".")[0]
        if missing == "neox_eqx":
            raise
        needed = f"'neox-eqx[{_EXTRAS[name]}]'" if name in _EXTRAS else missing
        raise InputError(
            f"{missing}, which {name} needs, is not installed; run pip install {needed}"
        ) from error
