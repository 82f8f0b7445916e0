"""Times prefill and decode: `neox-eqx benchmark`, from a checkout."""

from neox_eqx.cli.main import run_command

if __name__ == "__main__":
    run_command("benchmark")
