"""Compiles the planted programs for a v5e slice of 2x2 chips, and writes the compiler's texts.

Run as `python -m tests.planning.compile_planted FOLDER`, in a process of its own: libtpu takes
one over.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from tests.planning import planted_bytes, planted_collectives


def main(folder: Path) -> None:
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips), ("x",))
    for planted in (*planted_bytes.PLANTED, *planted_collectives.PLANTED):
        f, args, overwritten = planted(mesh)
        compiled = jax.jit(f, donate_argnums=overwritten).lower(*args).compile()
        (folder / f"{planted.__name__}.hlo").write_text(compiled.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
