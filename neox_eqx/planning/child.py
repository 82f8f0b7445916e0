"""The process that compiles: libtpu is loaded here and never in the caller's.

It reads a line of JSON for each `message.Question`, as `attempts.Compiler` writes it, and answers
with a line for the `message.Answer`.
"""

import dataclasses
import json
import os
import re
import sys
from functools import partial
from typing import Any

import jax

from neox_eqx.errors import InputError
from neox_eqx.model.int8_cache import cache_of
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.planning.chips import Chip, Topology
from neox_eqx.planning.facts import (
    cache_bytes,
    decode_facts,
    growth_bytes,
    local_bytes,
    prefill_facts,
    train_facts,
    weights_read,
)
from neox_eqx.planning.message import Answer, Facts, Question, Workload
from neox_eqx.planning.programs import (
    abstract_model,
    abstract_update,
    compile_decode,
    compile_prefill,
    compile_train,
)
from neox_eqx.sharding.mesh import Arrangement, make_mesh
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState


def answer(question: Question) -> Answer:
    """Compiles one program on one mesh."""
    topology = Topology.parse(question.topology)
    config, load, chip = question.config, question.load, topology.chip
    mesh = make_mesh(config, question.mesh, _devices(topology))
    if question.program == "train":
        update = abstract_update(config, mesh, question.dtype, load)
        weights = local_bytes(update[0])
        compile_it = partial(_train, update, chip)
    else:
        asked = Arrangement.parse(question.mesh)
        model = abstract_model(config, mesh, asked, question.dtype, question.quantize)
        model = dataclasses.replace(model, cache=cache_of(question.cache_bits))
        weights = local_bytes(model)
        program = {"decode": _decode, "prefill": _prefill}[question.program]
        compile_it = partial(program, model, load, chip)
    try:
        facts, most, cache = compile_it()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"\(([\d.]+)([KMGT])\) exceeds available HBM", str(error))
        if not found:
            raise
        size = float(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1)
        return Answer(int(size), weights)
    return Answer(most, weights, cache, facts)


# Each of these gives the program's facts, the most bytes that are in use at any time, and the bytes
# of the cache.


def _decode(model: GPTNeoX, load: Workload, chip: Chip) -> tuple[Facts, int, int]:
    compiled = compile_decode(model, load)
    facts = decode_facts(model, compiled, chip)
    most = max(facts.peak_bytes, growth_bytes(compiled))
    return facts, most, cache_bytes(compiled)


def _prefill(model: GPTNeoX, load: Workload, chip: Chip) -> tuple[Facts, int, int]:
    facts = prefill_facts(model, compile_prefill(model, load), chip)
    # What must move beside the weights is what prefill leaves behind: the cache.
    cache = facts.hbm_bytes_minimum - weights_read(model)
    return facts, facts.peak_bytes, cache


def _train(update: tuple[TrainState, Batch, Recipe], chip: Chip) -> tuple[Facts, int, int]:
    facts = train_facts(compile_train(*update), chip)
    return facts, facts.peak_bytes, 0


_known: dict[str, Any] = {}


def _devices(topology: Topology) -> Any:
    """The devices of a slice, described once: those of two descriptions do not mix."""
    if topology.name not in _known:
        _known[topology.name] = topology.devices()
    return _known[topology.name]


def main() -> None:
    # Answers have a stream of their own: libtpu writes to stdout and stderr as it likes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(Question.from_json(json.loads(line))).to_json()
        except InputError as error:
            reply = {"error": str(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
