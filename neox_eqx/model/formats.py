"""The forms in which a model's weights can be held, by name."""

import dataclasses
from typing import Any

import jax

from neox_eqx.errors import InputError
from neox_eqx.model.int4 import Int4Linear
from neox_eqx.model.int4_rows import Int4Rows
from neox_eqx.model.int8 import Int8Linear
from neox_eqx.model.linear import Linear
from neox_eqx.model.lora import LoRALinear
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.quantized import QuantizedLinear
from neox_eqx.shown import shown

FORMATS = {form.name: form for form in (Int8Linear, Int4Linear)}
ON_ACCELERATORS = {form.name: form for form in (Int4Rows,)}
"""Those that lie differently where the device is no CPU."""
Form = str | type[QuantizedLinear]
"""A name in FORMATS, or a class of one's own."""


def form_of(quantize: Form, platform: str | None = None) -> type[QuantizedLinear]:
    """The class of a form that is given by name or as the class itself.

    `platform` is what JAX calls the kind of device, by default the one that this process has.

    Raises:
        InputError: there is no form of this name.
    """
    if isinstance(quantize, type) and issubclass(quantize, QuantizedLinear):
        return quantize
    if not isinstance(quantize, str) or quantize not in FORMATS:
        raise InputError(
            f"quantize {shown(quantize)} is not supported; it is {', '.join(FORMATS)}, or left out"
        )
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return FORMATS[quantize] if on_cpu else ON_ACCELERATORS.get(quantize, FORMATS[quantize])


def form_name(quantize: Form) -> str:
    """What a form is called where it is reported."""
    return form_of(quantize).name


def quantized(model: GPTNeoX, quantize: Form = "int8") -> GPTNeoX:
    """The same model with the weights of its Linears in few bits.

    Embedding, norms and biases stay as they are, and so do LoRA's own matrices and a head that is
    the embedding; what is in few bits already stays in its form.

    Raises:
        InputError: there is no form of this name.
    """
    form = form_of(quantize)

    def of_node(node: Any) -> Any:
        if isinstance(node, LoRALinear):
            return dataclasses.replace(node, base_layer=of_node(node.base_layer))
        plain = isinstance(node, Linear) and not isinstance(node, QuantizedLinear)
        return form.of(node) if plain else node

    return jax.tree.map(of_node, model, is_leaf=lambda node: isinstance(node, Linear | LoRALinear))


def is_quantized(model: GPTNeoX) -> bool:
    """Whether a weight of the model is in few bits."""
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, QuantizedLinear))
    return any(isinstance(node, QuantizedLinear) for node in nodes)
