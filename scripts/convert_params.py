"""Converts a checkpoint between layouts: `neox-eqx convert`, from a checkout."""

from neox_eqx.cli.main import run_command

if __name__ == "__main__":
    run_command("convert")
