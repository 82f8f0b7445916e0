"""The process that compiles: libtpu is loaded here and never in the caller's.

It reads a line of JSON for each attempt, as `attempts.Compiler` writes it, and answers with one.
"""

import dataclasses
import json
import os
import re
import sys
from typing import Any

import jax

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.planning.chips import Topology
from neox_eqx.planning.facts import (
    cache_bytes,
    decode_facts,
    growth_bytes,
    local_bytes,
    prefill_facts,
)
from neox_eqx.planning.programs import Workload, abstract_model, compile_decode, compile_prefill
from neox_eqx.sharding.mesh import Arrangement, make_mesh


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Compiles one program on one mesh."""
    topology = Topology.parse(question["topology"])
    config = GPTNeoXConfig.from_hf(question["config"])
    mesh = make_mesh(config, question["mesh"], _devices(topology))
    model = abstract_model(config, mesh, Arrangement.parse(question["mesh"]), question["dtype"])
    load = Workload(**question["load"])
    compile_program, facts = {
        "decode": (compile_decode, decode_facts),
        "prefill": (compile_prefill, prefill_facts),
    }[question["program"]]
    try:
        compiled = compile_program(model, load)
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"\(([\d.]+)G\) exceeds available HBM", str(error))
        if not found:
            raise
        return {"too_large": int(float(found[1]) * 2**30)}
    own = facts(model, compiled, topology.chip)
    return {
        "facts": dataclasses.asdict(own),
        "bytes": max(own.peak_bytes, growth_bytes(compiled)),
        "weights_bytes": local_bytes(model),
        "cache_bytes": cache_bytes(compiled),
    }


_known: dict[str, Any] = {}


def _devices(topology: Topology) -> Any:
    """Once each: devices of two descriptions do not go together."""
    if topology.name not in _known:
        _known[topology.name] = topology.devices()
    return _known[topology.name]


def main() -> None:
    # libtpu and the compiler write to stdout and stderr as they like; the answers do not.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except InputError as error:
            reply = {"error": str(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
