"""A model with LoRA on some of its Linears, and back to a plain one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from neox_eqx.model.block import Block
from neox_eqx.model.linear import Linear
from neox_eqx.model.lora import LoRALinear
from neox_eqx.model.neox import GPTNeoX

TARGETS = {
    "query_key_value": "attention",
    "dense": "attention",
    "dense_h_to_4h": "mlp",
    "dense_4h_to_h": "mlp",
}
"""The Linears of a Block that can be adapted, and the part of the Block that has each."""


def adapt(
    model: GPTNeoX,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    key: PRNGKeyArray,
    *,
    use_rslora: bool = False,
    dropout: float = 0.0,
) -> GPTNeoX:
    """The model with LoRA on each of the `targets`, which are names in TARGETS.

    Until it is trained its output is the same.

    The other arguments are those of `LoRALinear.init`.
    """

    def linears(model: GPTNeoX) -> list[Linear]:
        blocks = model.layers if isinstance(model.layers, tuple) else (model.layers,)
        return [
            getattr(getattr(block, TARGETS[name]), name) for block in blocks for name in targets
        ]

    plain = linears(model)
    keys = jax.random.split(key, len(plain))
    with_lora = [
        LoRALinear.init(linear, rank, alpha, key, use_rslora=use_rslora, dropout=dropout)
        for linear, key in zip(plain, keys, strict=True)
    ]
    return eqx.tree_at(linears, model, with_lora)


def merge(model: GPTNeoX) -> GPTNeoX:
    """The model with each LoRALinear merged into one plain Linear."""
    return jax.tree.map(
        lambda node: node.merged() if _is_adapted(node) else node, model, is_leaf=_is_adapted
    )


def dropping(block: Block, key: PRNGKeyArray) -> Block:
    """The layer with dropout on the input of each LoRA, whose keys are split from `key`."""
    keys = iter(jax.random.split(key, len(TARGETS)))
    return jax.tree.map(
        lambda node: dataclasses.replace(node, key=next(keys)) if _is_adapted(node) else node,
        block,
        is_leaf=_is_adapted,
    )


def adapted(model: GPTNeoX | Block) -> list[LoRALinear]:
    """The LoRALinears of a model or of a layer."""
    return list(filter(_is_adapted, jax.tree.leaves(model, is_leaf=_is_adapted)))


def split(model: GPTNeoX) -> tuple[GPTNeoX, GPTNeoX]:
    """Two trees like the model: LoRA's A and B alone, and all else alone; None is elsewhere."""
    chosen = jax.tree.map(lambda _: False, model)
    return eqx.partition(model, eqx.tree_at(_matrices, chosen, replace_fn=lambda _: True))


def _matrices(model: GPTNeoX) -> list[Any]:
    return [linear.weight for node in adapted(model) for linear in (node.lora_A, node.lora_B)]


def _is_adapted(node: Any) -> bool:
    return isinstance(node, LoRALinear)
