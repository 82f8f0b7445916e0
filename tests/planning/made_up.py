"""Plans whose numbers are made up, near those of real ones: to be shown, not to be believed."""

import dataclasses

from neox_eqx.planning.chips import Topology
from neox_eqx.planning.message import Facts
from neox_eqx.planning.plan import Plan, Tried
from neox_eqx.planning.wish import Wish
from neox_eqx.presets import PRESETS

GB = 10**9
FACTS = Facts(
    all_reduce_per_layer=1.0,
    all_reduce=44,
    all_gather=23,
    reduce_scatter=2,
    all_to_all=4,
    collective_permute=12,
    collective_bytes=36_238_800_000,
    hbm_bytes=7 * GB,
    hbm_bytes_minimum=7 * GB,
    hbm_ratio=1.002,
    flops=200e9,
    bound_seconds=1.0,
    memory_seconds=1.0,
    matrix_seconds=1.0,
    links_seconds=0.001,
    temp_bytes=2_250_400_000,
    peak_bytes=10 * GB,
    cache_aliased=True,
    compile_seconds=1.0,
    dtypes={},
)


def plan(topology: str, mesh: str, *, train: bool = False, fits: bool = True) -> Plan:
    """Of the 20b model on a slice of 16 chips."""
    wish = Wish(PRESETS["gpt-neox-20b"], Topology.parse(topology), 64, 512, 512, train=train)
    chip = wish.topology.chip
    programs = {}
    for number, program in enumerate(wish.programs):
        hbm_bytes, flops = (7 * GB, 200 * GB) if program == "decode" else (300 * GB, 90_000 * GB)
        memory, matrix = hbm_bytes / chip.rates.hbm_bandwidth, flops / chip.rates.flops
        facts = dataclasses.replace(
            FACTS,
            hbm_bytes=hbm_bytes,
            hbm_bytes_minimum=int(hbm_bytes / FACTS.hbm_ratio),
            flops=flops,
            bound_seconds=max(memory, matrix) + FACTS.links_seconds,
            memory_seconds=memory,
            matrix_seconds=matrix,
        )
        size = (11 + 2 * number) * GB if fits else 99 * GB
        programs[program] = Tried(mesh, size, facts if fits else None, 3 * GB, 4 * GB)
    first = next(iter(programs.values()))
    return Plan(wish, mesh, programs, [first], *((160, 2048) if fits else ()))


THREE = [
    plan("v5e:4x4", "data=1,model=16"),
    plan("v4-32", "data=2,model=8,layout=2d"),
    plan("v6e:4x4", "data=1,model=16,heads=48"),
]
