"""Tells what a model takes on a TPU that is not there: `neox-eqx plan`, from a checkout."""

from neox_eqx.cli.main import run_command

if __name__ == "__main__":
    run_command("plan")
