"""The harness's own command with our model for a default.

python -m neox_eqx.harness --model_args pretrained=MODEL --tasks TASK --include_path DIRECTORY
"""

import sys
from collections.abc import Sequence

from lm_eval.__main__ import cli_evaluate

import neox_eqx.harness.adapter  # noqa: F401  registers the model
from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import on_every_host

_DEFAULTS = {("--model", "-M"): "neox_eqx", ("--batch_size", "-b"): "8"}


def main(args: Sequence[str]) -> None:
    """Runs the harness's command with `args`; a mistake of the user's ends with status 2."""
    sys.argv[1:] = with_defaults(args)
    try:
        cli_evaluate()
    except InputError as error:
        if error.mine is not False:
            print(f"neox_eqx.harness: error: {error}", file=sys.stderr)
        sys.exit(2)


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
    on_every_host(main)(sys.argv[1:])
