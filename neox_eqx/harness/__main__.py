"""The harness's own command with our model for a default.

python -m neox_eqx.harness --model_args pretrained=MODEL --tasks TASK --include_path DIRECTORY
"""

import os
import sys
from collections.abc import Sequence
from functools import partial

import jax
from lm_eval.__main__ import cli_evaluate

import neox_eqx.harness.adapter  # noqa: F401  registers the model
from neox_eqx.command_line import run_program
from neox_eqx.sharding.distributed import is_first, on_every_host

_DEFAULTS = {("--model", "-M"): "neox_eqx", ("--batch_size", "-b"): "8"}


def main(args: Sequence[str]) -> None:
    """Runs the harness's command with `args`; of a pod the first process writes what it writes."""
    sys.argv[1:] = with_defaults(args)
    if jax.process_count() > 1:
        # By it the harness knows the one of several processes that makes and writes results.
        os.environ["LOCAL_RANK"] = str(jax.process_index())
        if not is_first():
            os.environ["WANDB_MODE"] = "disabled"
    cli_evaluate()


def with_defaults(args: Sequence[str]) -> list[str]:
    """`args`, those of a run with our model and batch size where they name none."""
    if not args or args[0] in ("ls", "validate", "-h", "--help"):
        return list(args)
    completed = ["run", *args[args[0] == "run" :]]
    given = {arg.split("=")[0] for arg in args}
    if given & {"--config", "-C"}:
        return completed
    for names, value in _DEFAULTS.items():
        if not given & set(names):
            completed += [names[0], value]
    return completed


if __name__ == "__main__":
    run_program("neox_eqx.harness", partial(on_every_host(main), sys.argv[1:]))
