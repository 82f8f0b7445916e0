"""The command `neox-eqx`: it finds the command that is asked for, and imports that one alone."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from neox_eqx import __version__
from neox_eqx.shown import shown

COMMANDS = {
    "generate": "texts that go on from prompts, or a conversation (--chat)",
    "score": "how likely a model finds each token of texts",
    "train": "fine-tuning: of all parameters, with LoRA or with a soft prompt",
    "convert": "a checkpoint from one layout to another, bit for bit, with a certificate",
    "plan": "what a model takes on a TPU that is not there, by the TPU's own compiler",
    "benchmark": "times of prefill and decode, beside transformers if asked",
    "evaluate": "EleutherAI's lm-evaluation-harness with a model",
}
# What to install for a command beyond what all of them need.
EXTRAS = {"train": "train", "plan": "plan", "evaluate": "eval"}
_PROGRAM = "neox-eqx"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command that `args`, by default the process's own, begin with, or tells of all."""
    first, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if first in ("-h", "--help", "help"):
        _tell(about())
    elif first == "--version":
        _tell(f"{_PROGRAM} {__version__}")
    elif first in COMMANDS:
        sys.argv = [f"{_PROGRAM} {first}", *rest]
        run_command(first)
    else:
        _fail(_PROGRAM, f"there is no command {shown(first)}; {_hint(first)}")


def run_command(name: str) -> None:
    """Runs a command with the options in `sys.argv`, whose first entry it calls itself by."""
    try:
        command = importlib.import_module(f"neox_eqx.cli.{name}").command
    except KeyboardInterrupt:
        os._exit(130)  # as Ctrl-C ends it later
    except ModuleNotFoundError as error:
        missing = (error.name or "neox_eqx").split(".")[0]
        if missing == "neox_eqx":
            raise
        extra = f"'neox-eqx[{EXTRAS[name]}]'" if name in EXTRAS else missing
        reason = f"it needs {missing}, which is not installed; run pip install {extra}"
        _fail(Path(sys.argv[0]).name, reason)
    command()


def about() -> str:
    """What there is."""
    width = max(map(len, COMMANDS)) + 4
    lines = [f"  {name}".ljust(width) + text for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {_PROGRAM} COMMAND [OPTIONS]",
            "",
            "GPT-NeoX models in JAX and Equinox, right to the token.",
            "",
            *lines,
            "",
            f"{_PROGRAM} generate, without options, shows the bundled model at work.",
            f"{_PROGRAM} COMMAND --help explains the options of a command, {_PROGRAM} --version",
            "tells the version, and README.md leads to the guide.",
        ]
    )


def _tell(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os._exit(141)  # as run_program ends where a reader leaves


def _hint(wrong: str) -> str:
    close = difflib.get_close_matches(wrong, COMMANDS, n=1)
    return f"did you mean {close[0]}?" if close else f"{_PROGRAM} --help lists the commands"


def _fail(program: str, reason: str) -> None:
    print(f"{program}: error: {reason}", file=sys.stderr)
    sys.exit(2)
