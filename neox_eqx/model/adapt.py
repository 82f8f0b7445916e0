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
"""The Linears of a Block that can be adapted, and where in it they are."""


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
    """The model with LoRA on each of the `targets`, which changes nothing yet.

    The options are those of `LoRALinear.init`.
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
    """The model with plain Linears that compute the same."""
    return jax.tree.map(
        lambda node: node.merged() if _is_adapted(node) else node, model, is_leaf=_is_adapted
    )


def dropping(block: Block, key: PRNGKeyArray) -> Block:
    """The layer whose LoRA drops out what it reads, by this key."""
    keys = iter(jax.random.split(key, len(TARGETS)))
    return jax.tree.map(
        lambda node: dataclasses.replace(node, key=next(keys)) if _is_adapted(node) else node,
        block,
        is_leaf=_is_adapted,
    )


def adapted(model: GPTNeoX | Block) -> list[LoRALinear]:
    """The Linears of a model or of a layer that LoRA is on."""
    return list(filter(_is_adapted, jax.tree.leaves(model, is_leaf=_is_adapted)))


def split(model: GPTNeoX) -> tuple[GPTNeoX, GPTNeoX]:
    """The A and B of a model, and all else, each with None in the place of the other."""
    chosen = jax.tree.map(lambda _: False, model)
    return eqx.partition(model, eqx.tree_at(_matrices, chosen, replace_fn=lambda _: True))


def _matrices(model: GPTNeoX) -> list[Any]:
    return [linear.weight for node in adapted(model) for linear in (node.lora_A, node.lora_B)]


def _is_adapted(node: Any) -> bool:
    return isinstance(node, LoRALinear)
