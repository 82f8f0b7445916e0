"""Makes the harness's model of one text of `--model_args`, as the harness itself does.

The harness's own command would read all of its tasks first, which takes many seconds.
"""

import sys

from lm_eval.api.registry import get_model

import neox_eqx.harness.adapter  # noqa: F401  registers the model
from neox_eqx.command_line import run_program


def main() -> None:
    get_model("neox_eqx").create_from_arg_string(sys.argv[1], {"batch_size": sys.argv[2]})


if __name__ == "__main__":
    run_program("harness_model.py", main)
