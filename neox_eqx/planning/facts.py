"""What a compiled program tells about itself: memory, traffic and collectives of one chip."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from neox_eqx.generation.decoding.state import FIRST_SLOTS, State
from neox_eqx.model.linear import Linear
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.planning.chips import Chip
from neox_eqx.planning.collectives import Collective
from neox_eqx.planning.message import Facts
from neox_eqx.planning.program import Program, read_program
from neox_eqx.planning.programs import Compiled
from neox_eqx.sizes import dtype_bits

# The time between neighbouring chips, whatever the payload: jax-ml.github.io/scaling-book, "TPUs".
HOP_SECONDS = 1e-6


def decode_facts(model: GPTNeoX, compiled: Compiled, chip: Chip) -> Facts:
    _, _, state, *_ = compiled.arguments
    cache = cache_bytes(compiled)
    # Each key and each value is multiplied and added once.
    attention = 2 * cache / model.slot_bytes * _slot_numbers(model)
    return _facts(
        model,
        compiled,
        read_program(compiled.program.as_text()).loop_body(),
        chip,
        minimum=weights_read(model) + cache,
        flops=2 * len(state.rows.lengths) * _matrix_elements(model) + attention,
        aliased=local_bytes(state.generated.kv),
    )


def prefill_facts(model: GPTNeoX, compiled: Compiled, chip: Chip) -> Facts:
    _, tokens, *_ = compiled.arguments
    rows, length = tokens.shape[0] / _mesh(model).shape["data"], tokens.shape[1]
    slots = rows * length / _mesh(model).shape["model"]
    # Of each pair of tokens the later one attends to the earlier one.
    attention = slots * _slot_numbers(model) * length
    return _facts(
        model,
        compiled,
        read_program(compiled.program.as_text()),
        chip,
        minimum=weights_read(model) + int(slots * model.slot_bytes),
        flops=2 * tokens.size * _matrix_elements(model, head=False) + attention,
        aliased=0,
    )


def _slot_numbers(model: GPTNeoX) -> int:
    """The keys and values of one token of a row, in all layers, as numbers."""
    return 2 * model.config.num_hidden_layers * model.num_heads * model.config.head_dim


def train_facts(compiled: Compiled, chip: Chip) -> Facts:
    """The facts of one update: a forward pass, a backward pass and the optimiser."""
    state, batch, _ = compiled.arguments
    model = state.model
    config, chips, tokens = model.config, _mesh(model).size, batch.tokens
    kept = 2 * config.num_hidden_layers * tokens.size * config.hidden_size / chips
    attention = kept * tokens.shape[1]
    return _facts(
        model,
        compiled,
        read_program(compiled.program.as_text()),
        chip,
        # Parameters and both moments are read and written.
        minimum=2 * local_bytes(state),
        flops=3 * (2 * tokens.size * _matrix_elements(model) + attention),
        aliased=local_bytes(state),
    )


def weights_read(model: GPTNeoX) -> int:
    """Bytes of a chip's weights, without an embedding of which only some rows are read."""
    embedding = 0 if model.embed_out is None else local_bytes(model.embed_in)
    return local_bytes(model) - embedding


def local_bytes(tree: Any) -> int:
    """Bytes of the arrays' shards on one chip, which holds two numbers of 4 bits in a byte."""
    return sum(_local_size(leaf) * dtype_bits(leaf.dtype) // 8 for leaf in jax.tree.leaves(tree))


def cache_bytes(compiled: Compiled) -> int:
    """Bytes of keys and values on a chip that a program takes."""
    return local_bytes([segment.kv for segment in _segments(compiled.arguments)])


def growth_bytes(compiled: Compiled) -> int:
    """Bytes in use while the cache grows to its last size: the old one is there beside the new."""
    memory = compiled.program.memory_analysis()
    grown = [x for x in compiled.arguments if isinstance(x, State)]
    slots = grown[0].rows.slots if grown else 0
    if slots <= FIRST_SLOTS:
        return 0
    return memory.argument_size_in_bytes + local_bytes(grown[0].generated.kv) // 2


def _segments(tree: Any) -> list[Segment]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Segment))
    return [leaf for leaf in leaves if isinstance(leaf, Segment)]


def _facts(
    model: GPTNeoX,
    compiled: Compiled,
    step: Program,
    chip: Chip,
    *,
    minimum: int,
    flops: float,
    aliased: int,
) -> Facts:
    collectives = step.collectives()
    counts = Counter[str]()
    for each in collectives:
        counts[each.kind] += each.times
    layers = model.config.num_hidden_layers
    of_layers = sum(
        each.times for each in collectives if each.kind == "all-reduce" and layers in each.loops
    )
    traffic = step.hbm_bytes()
    memory_seconds, matrix_seconds = traffic / chip.rates.hbm_bandwidth, flops / chip.rates.flops
    waiting, beside = (
        sum(each.times * _seconds(each, chip) for each in collectives if each.beside_work is work)
        for work in (False, True)
    )
    memory = compiled.program.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Facts(
        all_reduce_per_layer=of_layers / layers,
        all_reduce=counts["all-reduce"],
        all_gather=counts["all-gather"],
        reduce_scatter=counts["reduce-scatter"],
        all_to_all=counts["all-to-all"],
        collective_permute=counts["collective-permute"],
        collective_bytes=sum(each.times * each.payload_bytes for each in collectives),
        hbm_bytes=traffic,
        hbm_bytes_minimum=minimum,
        hbm_ratio=traffic / minimum,
        flops=flops,
        bound_seconds=max(memory_seconds, matrix_seconds, beside) + waiting,
        memory_seconds=memory_seconds,
        matrix_seconds=matrix_seconds,
        links_seconds=waiting + beside,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=own - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        cache_aliased=memory.alias_size_in_bytes >= aliased > 0,
        compile_seconds=compiled.seconds,
        dtypes=_dtypes(collectives),
    )


def _dtypes(collectives: Sequence[Collective]) -> dict[str, list[str]]:
    """What each kind of collective moves, where that is a megabyte or more."""
    dtypes: dict[str, set[str]] = {each.kind: set() for each in collectives}
    for each in collectives:
        if each.payload_bytes >= 1e6:
            dtypes[each.kind].add(each.dtype)
    return {kind: sorted(found) for kind, found in dtypes.items()}


def _seconds(collective: Collective, chip: Chip) -> float:
    """The least time of one execution: hops half way around the chips' torus, and sending.

    An all-reduce takes both twice: once to add up, once to hand out the sums.
    """
    size, dimensions = collective.group_size, chip.dimensions
    if collective.kind == "collective-permute":
        return HOP_SECONDS + collective.payload_bytes / chip.rates.ici_bandwidth
    rounds = 2 if collective.kind == "all-reduce" else 1
    # As if the torus was a cube; the small number is for roots such as 3.9999.
    hops = max(1, dimensions * int(size ** (1 / dimensions) / 2 + 1e-9))
    sent = collective.payload_bytes * (size - 1) / size
    return rounds * (hops * HOP_SECONDS + sent / chip.rates.ici_bandwidth)


def _matrix_elements(model: GPTNeoX, *, head: bool = True) -> float:
    """A chip's share of the weights that every token is multiplied by."""
    nodes = jax.tree.leaves(model.layers, is_leaf=lambda node: isinstance(node, Linear))
    shapes = [node.shape for node in nodes if isinstance(node, Linear)]
    if head:
        shapes.append((model.embed_out or model.embed_in).weight.shape)
    return sum(math.prod(shape) for shape in shapes) / _mesh(model).size


def _local_size(leaf: jax.ShapeDtypeStruct) -> int:
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape))


def _mesh(model: GPTNeoX) -> jax.sharding.Mesh:
    assert model.mesh is not None
    return model.mesh
