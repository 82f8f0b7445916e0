"""Weights in int8, half of bfloat16's bytes and a quarter of float32's to read for a token."""

from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int8

from neox_eqx.model.kernels import cpu, tpu
from neox_eqx.model.kernels.any import dot_int8, is_few
from neox_eqx.model.kernels.cpu import LARGEST, TINY
from neox_eqx.model.quantized import Numbers, QuantizedLinear
from neox_eqx.sharding.rules import Axes


class Int8Linear(QuantizedLinear):
    """Row r of the weight stands for scale[r] * weight[r]."""

    weight: Int8[Array, "*L out in"]
    scale: Float32[Array, "*L out"]
    name: ClassVar[str] = "int8"

    @classmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        rounded, scale = quantize_rows(weight)
        return {"weight": rounded, "scale": scale}

    @classmethod
    def values(cls, arrays: dict[str, Numbers]) -> Numbers:
        return arrays["weight"].astype(np.float32) * arrays["scale"][..., None]

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return project_int8(x, self.weight, self.scale)

    def axes_of(self, name: str) -> Axes:
        return self.axes[:1] if name == "scale" else super().axes_of(name)


def quantize_rows(weight: Numbers) -> tuple[Numbers, Numbers]:
    """A float32 weight (..., out, in) in int8, from -127 to 127, and the scale (..., out).

    A row's scale, float32, is a 127th of its largest absolute value; its values are divided by
    it and rounded, halves to even. A row of zeros has the smallest normal number as its scale.
    """
    # Not / LARGEST: XLA would compile that to this product, and NumPy would round differently.
    scale = (abs(weight).max(-1) * (1 / LARGEST)).clip(TINY)
    return (weight / scale[..., None]).round().astype(np.int8), scale


@jax.custom_vjp
def project_int8(
    x: Float[Array, "*B in"], weight: Int8[Array, "out in"], scale: Float32[Array, "out"]
) -> Float[Array, "*B out"]:
    """x Wᵀ in x's dtype; row r of W is scale[r] * weight[r].

    Gradients are those of the product with the weight in x's dtype.
    """
    on_tpu = partial(tpu.with_full_tiles, dot_int8) if is_few(x) else dot_int8
    return lax.platform_dependent(x, weight, scale, cpu=cpu.dot_int8, tpu=on_tpu, default=dot_int8)


def _forward(x: Array, *weight: Array) -> tuple[Array, tuple[Array, ...]]:
    return project_int8(x, *weight), (x, *weight)


def _backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Any, ...]:
    return jax.vjp(dot_int8, *saved)[1](gradient)


project_int8.defvjp(_forward, _backward)
