"""Weights in 4 bits as accelerators read them: row by row, in a dtype of 4 bits."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float16, Int4

from neox_eqx.model.int4 import LARGEST, ZERO, best_scale, filled, rounded
from neox_eqx.model.int4_file import packed, unpacked, with_columns
from neox_eqx.model.linear import Linear
from neox_eqx.model.quantized import Numbers, QuantizedLinear
from neox_eqx.native.tiles import GROUP
from neox_eqx.sharding.rules import Axes


class Int4Rows(QuantizedLinear):
    """The same numbers as those of an Int4Linear: scale * code, the codes from -8 to 7."""

    weight: Int4[Array, "*L out groups 32"]
    scale: Float16[Array, "*L out groups"]
    columns: int = eqx.field(static=True)
    """The inputs; the last group is filled up with zeros."""
    name: ClassVar[str] = "int4"
    largest: ClassVar[float] = LARGEST

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.weight.shape[:-2], self.columns)

    @classmethod
    def of(cls, linear: Linear) -> "Int4Rows":
        arrays = cls.encode(linear.weight.astype(jnp.float32))
        return cls(bias=linear.bias, axes=linear.axes, columns=linear.shape[-1], **arrays)

    @classmethod
    def encode(cls, weight: Numbers) -> dict[str, Numbers]:
        full = filled(weight, rows=1)
        groups = full.reshape(*full.shape[:-1], -1, GROUP)
        scale = best_scale(groups)
        codes = rounded(groups, scale.astype(jnp.float32))
        return {"weight": codes.astype(ml_dtypes.int4), "scale": scale}

    @classmethod
    def values(cls, arrays: dict[str, Numbers]) -> Numbers:
        weight, scale = (arrays[name].astype(np.float32) for name in ("weight", "scale"))
        return (weight * scale[..., None]).reshape(*weight.shape[:-2], -1)

    @classmethod
    def to_file(cls, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        codes = arrays["weight"].astype(np.int8) + ZERO
        rows = codes.reshape(len(codes), -1).astype(np.uint8)
        return {"weight": packed(rows), "scale": arrays["scale"]}

    @classmethod
    def from_file(cls, stored: dict[str, np.ndarray], columns: int) -> dict[str, np.ndarray]:
        filled_up = with_columns(stored, columns)
        codes = unpacked(filled_up["weight"]).astype(np.int8) - ZERO
        groups = codes.reshape(*filled_up["scale"].shape, GROUP)
        return {"weight": groups.astype(ml_dtypes.int4), "scale": filled_up["scale"]}

    def product(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        """x Wᵀ in x's dtype: the products of each group are summed, then times their scale.

        A compiler would write the weight out if it were multiplied by its scale before (seen with
        libtpu 0.0.51).
        """
        missing = self.weight.shape[-2] * GROUP - self.columns
        rows = jnp.pad(x.reshape(-1, self.columns), ((0, 0), (0, missing)))
        groups = rows.reshape(len(rows), -1, GROUP)
        dims = (((2,), (2,)), ((1,), (1,)))
        products = lax.dot_general(
            groups,
            self.weight.astype(x.dtype),
            dims,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        y = (products * self.scale.T.astype(jnp.float32)[:, None]).sum(0)
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1)

    def axes_of(self, name: str) -> Axes:
        return {"weight": (*self.axes, None), "scale": self.axes, "bias": self.axes[:1]}[name]
