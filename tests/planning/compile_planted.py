"""Compiles planted programs for a v5e slice of 2x2 chips, and writes the compiler's texts.

Run as `python -m tests.planning.compile_planted MODULE FOLDER`, in a process of its own: libtpu
takes one over.
"""

import sys
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh


def main(module: str, folder: Path) -> None:
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips), ("x",))
    for planted in import_module(f"tests.planning.{module}").PLANTED:
        f, args, overwritten = planted(mesh)
        compiled = jax.jit(f, donate_argnums=overwritten).lower(*args).compile()
        (folder / f"{planted.__name__}.hlo").write_text(compiled.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
