"""Trains or examines the bundled demo model: demo/pretrain.py."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1] / "demo")
    runpy.run_path(f"{sys.path[0]}/pretrain.py", run_name="__main__")
