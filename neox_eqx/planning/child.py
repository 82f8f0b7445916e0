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
from jax.sharding import Mesh

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.planning.chips import Chip, Topology
from neox_eqx.planning.facts import (
    Facts,
    cache_bytes,
    decode_facts,
    growth_bytes,
    local_bytes,
    prefill_facts,
    train_facts,
)
from neox_eqx.planning.programs import (
    Workload,
    abstract_model,
    compile_decode,
    compile_prefill,
    compile_train,
)
from neox_eqx.sharding.mesh import Arrangement, make_mesh


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Compiles one program on one mesh."""
    topology = Topology.parse(question["topology"])
    config = GPTNeoXConfig.from_hf(question["config"])
    mesh = make_mesh(config, question["mesh"], _devices(topology))
    asked, dtype = Arrangement.parse(question["mesh"]), question["dtype"]
    load = Workload(**question["load"])
    try:
        return _PROGRAMS[question["program"]](config, mesh, asked, dtype, load, topology.chip)
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"\(([\d.]+)G\) exceeds available HBM", str(error))
        if not found:
            raise
        return {"too_large": int(float(found[1]) * 2**30)}


def _decode(
    config: GPTNeoXConfig, mesh: Mesh, asked: Arrangement, dtype: str, load: Workload, chip: Chip
) -> dict[str, Any]:
    model = abstract_model(config, mesh, asked, dtype)
    compiled = compile_decode(model, load)
    facts = decode_facts(model, compiled, chip)
    most = max(facts.peak_bytes, growth_bytes(compiled))
    return _reply(facts, most, local_bytes(model), cache_bytes(compiled))


def _prefill(
    config: GPTNeoXConfig, mesh: Mesh, asked: Arrangement, dtype: str, load: Workload, chip: Chip
) -> dict[str, Any]:
    model = abstract_model(config, mesh, asked, dtype)
    facts = prefill_facts(model, compile_prefill(model, load), chip)
    return _reply(facts, facts.peak_bytes, local_bytes(model), 0)


def _train(
    config: GPTNeoXConfig, mesh: Mesh, asked: Arrangement, dtype: str, load: Workload, chip: Chip
) -> dict[str, Any]:
    compiled = compile_train(config, mesh, dtype, load)
    facts = train_facts(compiled, chip)
    return _reply(facts, facts.peak_bytes, local_bytes(compiled.arguments[0]), 0)


_PROGRAMS = {"decode": _decode, "prefill": _prefill, "train": _train}


def _reply(facts: Facts, most: int, weights: int, cache: int) -> dict[str, Any]:
    """`most` is what is in use at any time, in bytes of a chip as the others are."""
    return {
        "facts": dataclasses.asdict(facts),
        "bytes": most,
        "weights_bytes": weights,
        "cache_bytes": cache,
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
