"""Completes prompts with a GPT-NeoX model: `neox-eqx generate`, from a checkout."""

from neox_eqx.cli.main import run_command

if __name__ == "__main__":
    run_command("generate")
