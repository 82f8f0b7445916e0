"""The harness's own command with our model for a default.

neox-eqx evaluate --model_args pretrained=MODEL --tasks TASK --include_path DIRECTORY
"""

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from functools import partial

import jax
from lm_eval.__main__ import cli_evaluate
from lm_eval.config.evaluate_config import EvaluatorConfig

import neox_eqx.harness.adapter  # noqa: F401  registers the model
from neox_eqx.errors import InputError
from neox_eqx.harness.arguments import ARGUMENTS
from neox_eqx.harness.failures import FAILURES
from neox_eqx.sharding.distributed import is_first, on_every_host

_DEFAULTS = {"model": "neox_eqx", "batch_size": "8"}
# The modules of the harness, and of its data libraries, that raise errors for a user's mistakes.
_TELL_OF_MISTAKES = (
    *("lm_eval._cli", "lm_eval.api.registry", "lm_eval.config", "lm_eval.evaluator"),
    *("lm_eval.tasks", "datasets", "huggingface_hub"),
)


def main(args: Sequence[str], program: str = "neox-eqx evaluate") -> None:
    """Runs the harness's command with `args`; of a pod the first process writes what it writes.

    Raises:
        InputError: the harness refuses what it is asked for, or cannot get its data; or its
            results are written, and requests failed.
    """
    if jax.process_count() > 1:
        # The harness makes and writes results in the process where this is 0.
        os.environ["LOCAL_RANK"] = str(jax.process_index())
        if not is_first():
            os.environ["WANDB_MODE"] = "disabled"
    try:
        sys.argv[1:] = with_defaults(args)
        if sys.argv[1:] == ["run", "--help"]:
            print(about_model(program))
        cli_evaluate()
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, InputError) or not _is_mistake(error):
            raise
        raise InputError(f"{' '.join(str(error).split()):.500}") from error
    FAILURES.check()


def with_defaults(args: Sequence[str]) -> list[str]:
    """`args`, with our model and batch size for a run where neither they nor their file name one.

    Raises:
        InputError: `--model` is a checkpoint.
        OSError, TypeError, ValueError: the harness cannot read the file that `--config` names.
    """
    if not args or list(args) in (["-h"], ["--help"]):
        return ["run", "--help"]
    if args[0] in ("ls", "validate"):
        return list(args)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (("--config", "-C"), ("--model", "-M"), ("--batch_size", "-b")):
        parser.add_argument(*names)
    given = vars(parser.parse_known_args(args)[0])
    if "/" in (given["model"] or ""):
        raise InputError(
            f"--model is what runs a checkpoint, neox_eqx or hf; the checkpoint itself is "
            f"--model_args pretrained={given['model']:.200}"
        )
    in_file = EvaluatorConfig.load_yaml_config(given["config"]) if given["config"] else {}
    completed = ["run", *args[args[0] == "run" :]]
    for name, value in _DEFAULTS.items():
        if given[name] is None and name not in in_file:
            completed += [f"--{name}", value]
    return completed


def about_model(program: str) -> str:
    """What stands before the harness's own help."""
    width = max(map(len, ARGUMENTS)) + 4
    lines = [
        f"usage: {program} --model_args pretrained=MODEL[,NAME=VALUE ...] --tasks TASK ...",
        "",
        "EleutherAI's lm-evaluation-harness, with neox_eqx for its default model. Its model_args:",
        "",
    ]
    for name, text in ARGUMENTS.items():
        told = textwrap.wrap(text, 96 - width)
        lines.append(f"  {name}".ljust(width) + f"\n{' ' * width}".join(told))
    return "\n".join(
        [
            *lines,
            "",
            "Arguments of its model hf that change no result, as trust_remote_code, are taken too.",
            "All other options are the harness's own:",
            "",
        ]
    )


def _is_mistake(error: Exception) -> bool:
    """Whether the harness raised it to report a user's mistake, and not by a fault of its own."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith(_TELL_OF_MISTAKES)


def command(program: str, args: Sequence[str]) -> None:
    on_every_host(partial(main, program=program))(args)
