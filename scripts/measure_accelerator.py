"""Measures all that is asked of an accelerator in one go: benchmarks/accelerator/measure.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "accelerator"))

if __name__ == "__main__":
    from measure import Options, main

    from neox_eqx.command_line import run

    run(main, Options)
