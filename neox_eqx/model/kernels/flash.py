"""Causal attention that never holds the scores of all pairs of tokens."""

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.sharding.rules import sharding

# The kernel's block sizes; the largest that divides T is taken.
_BLOCKS = (512, 256, 128)


class Flash(eqx.Module):
    """For tokens without a past that attend to earlier ones with the same id.

    An id is the number of a document in its row, from 1; 0 is padding, which attends to padding.
    The kernel is JAX's for TPU. It runs on each device by itself, on the rows and the heads that
    `mesh` has there.
    """

    ids: Int[Array, "B T"]
    mesh: Mesh | None = eqx.field(static=True)

    @staticmethod
    def fits(length: int, platform: str) -> bool:
        """Whether the kernel takes rows of this length: on a TPU alone, multiples of 128."""
        return platform == "tpu" and length % _BLOCKS[-1] == 0

    def attend(
        self, query: Float[Array, "B H T K"], segments: tuple[KeysValues, ...]
    ) -> Float[Array, "B H T K"]:
        """softmax(q kᵀ / sqrt(K)) v."""
        (new,) = segments
        assert isinstance(new, KV)
        if self.mesh is None:
            return _kernel(query, new.key, new.value, self.ids)
        axes = ("rows", "heads", None, None)
        heads = sharding(self.mesh, query.shape, axes).spec
        rows = sharding(self.mesh, self.ids.shape, axes[:1] + (None,)).spec
        # check_vma: the kernel does not tell over which axes its results vary.
        kernel = jax.shard_map(
            _kernel,
            mesh=self.mesh,
            in_specs=(heads, heads, heads, rows),
            out_specs=heads,
            check_vma=False,
        )
        return kernel(query, new.key, new.value, self.ids)


def _kernel(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    ids: Int[Array, "B T"],
) -> Float[Array, "B H T K"]:
    # Imported where it is used: Pallas takes a second, and only training on a TPU needs it.
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    length, size = query.shape[-2:]
    block = next(block for block in _BLOCKS if length % block == 0)
    forward = ("block_q", "block_k_major", "block_k")
    dkv = ("block_q_major_dkv", "block_k_major_dkv", "block_k_dkv", "block_q_dkv")
    dq = ("block_k_major_dq", "block_k_dq", "block_q_dq")
    sizes = flash.BlockSizes(block_b=1, **dict.fromkeys((*forward, *dkv, *dq), block))
    return flash.flash_attention(
        query,
        key,
        value,
        segment_ids=flash.SegmentIds(ids, ids),
        causal=True,
        sm_scale=size**-0.5,
        block_sizes=sizes,
    )
