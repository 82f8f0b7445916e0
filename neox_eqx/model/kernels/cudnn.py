"""Attention by cuDNN's kernel on NVIDIA's GPUs."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.model.visible import Visible

_LARGEST_HEAD = 128
"""Newer GPUs than Ampere take up to 256, which no model of this family has with 16 bits."""


class CuDNN(eqx.Module):
    """Rows of one document each without a past.

    The kernel knows padding at a row's end alone; a mask would hold all pairs again. So the real
    tokens of a row are put first, and taken back to their places.
    """

    order: Int[Array, "B T"]
    """The places of a row's real tokens, then those of padding."""
    lengths: Int[Array, " B"]
    implementation: Literal["cudnn", "xla"] = eqx.field(static=True, default="cudnn")

    @classmethod
    def of(cls, visible: Visible) -> "CuDNN":
        real = visible.ids > 0
        return cls(jnp.argsort(~real, axis=1, stable=True), real.sum(-1, dtype=jnp.int32))

    @staticmethod
    def fits(visible: Visible, platform: str, *, head_size: int, dtype: jnp.dtype) -> bool:
        """Whether the kernel takes it, by what JAX 0.10 to 0.12 check before they call it."""
        in_16_bits = dtype in (jnp.bfloat16, jnp.float16)
        takes_head = head_size % 8 == 0 and head_size <= _LARGEST_HEAD
        is_plain = not visible.past and not visible.packed
        return platform == "gpu" and in_16_bits and takes_head and is_plain

    def attend(
        self, query: Float[Array, "B H T K"], segments: tuple[KeysValues, ...]
    ) -> Float[Array, "B H T K"]:
        """softmax(q kᵀ / sqrt(K)) v; of padding any finite numbers."""
        (new,) = segments
        assert isinstance(new, KV)
        first = self.order[:, :, None, None]
        query, key, value = (
            jnp.take_along_axis(x.swapaxes(1, 2), first, axis=1)
            for x in (query, new.key, new.value)
        )
        output = jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            query_seq_lengths=self.lengths,
            key_value_seq_lengths=self.lengths,
            implementation=self.implementation,
        )
        back = jnp.argsort(self.order, axis=1)[:, :, None, None]
        return jnp.take_along_axis(output, back, axis=1).swapaxes(1, 2)
