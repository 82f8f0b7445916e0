"""Keys and values of a run of tokens: what a forward pass returns and later ones attend to."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.sharding.rules import constrain

TILE_ROWS = 8


class KV(eqx.Module):
    """Keys (rotated) and values; `*L` is there where the layers are stacked.

    A TPU holds arrays in tiles of 8 x 128: head sizes such as 64 or 96 would be padded to 128, and
    one query a head would leave most of a tile's rows empty. There some heads stand side by side:
    G groups of C dims, those of `heads_together` heads. Elsewhere G is H and C is K.
    """

    key: Float[Array, "*L B G S C"]
    value: Float[Array, "*L B G S C"]

    def side_by_side(self, together: int) -> "KV":
        """Heads of one layer, each by itself so far, in groups of `together`."""
        return self if together == 1 else jax.tree.map(lambda x: _beside(x, together), self)


class Segment(eqx.Module):
    """A run of tokens in the past of a forward pass.

    `kv` is one KV a layer, or one KV with a leading layer axis, as the model's `layers` are.
    Slots where `valid` is False hold padding or nothing yet, and are never attended to. A
    segment of fewer rows than the batch is shared: each of its rows serves as many rows of the
    batch, next to each other, as it takes. `valid` may have more rows than `kv`: then the rows
    that share keys and values see different ones of them.
    """

    kv: KV | tuple[KV, ...]
    valid: Bool[Array, "R S"]

    @classmethod
    def empty(
        cls,
        layers: int,
        shape: tuple[int, int, int, int],
        dtype: jnp.dtype,
        *,
        readers: int,
        stacked: bool,
    ) -> "Segment":
        """Slots that hold nothing yet, in the `shape` (B, G, S, C) of each layer."""
        kv: KV | tuple[KV, ...]
        if stacked:
            kv = _zeros((layers, *shape), dtype)
        else:
            kv = tuple(_zeros(shape, dtype) for _ in range(layers))
        return cls(kv, jnp.zeros((readers, shape[2]), bool))

    @property
    def slots(self) -> int:
        return self.valid.shape[1]

    def beside(self, shared: "Segment") -> "Segment":
        """These keys and values in the form of `shared`, of which several rows share one.

        What the rows hold stands one after the other, and each sees its own alone.
        """
        readers, groups = len(self.valid), jax.tree.leaves(shared.kv)[0].shape[-4]
        if groups == readers:
            return self
        each = readers // groups
        own = jnp.tile(jnp.eye(each, dtype=bool), (groups, 1))
        valid = jnp.repeat(own, self.slots, axis=1) & jnp.tile(self.valid, each)
        return Segment(jax.tree.map(lambda x: _one_row(x, groups), self.kv), valid)

    def write(self, new: "Segment", slot: Int[Array, ""]) -> "Segment":
        """This segment with `new` in the slots from `slot` on, the same slots in every row."""
        return Segment(
            jax.tree.map(lambda old, x: _update(old, x, slot, axis=-2), self.kv, new.kv),
            _update(self.valid, new.valid, slot, axis=-1),
        )

    def only(self, valid: Bool[Array, "R S"]) -> "Segment":
        """This segment as if only its `valid` slots were there, one row of them for each of `kv`.

        The others are zero: attention multiplies them by its zeros, which would keep a NaN.
        """
        is_there = valid[:, None, :, None]
        return Segment(jax.tree.map(lambda x: jnp.where(is_there, x, 0), self.kv), valid)

    def pad(self, slots: int) -> "Segment":
        """This segment with `slots` more that hold nothing yet."""
        return Segment(
            jax.tree.map(lambda x: _pad(x, slots, axis=-2), self.kv),
            _pad(self.valid, slots, axis=-1),
        )

    def constrain(self, mesh: Mesh | None) -> "Segment":
        """This segment, its rows and heads where `mesh` has them."""
        return Segment(
            jax.tree.map(lambda x: constrain(x, mesh, "rows", "heads", None, None), self.kv),
            constrain(self.valid, mesh, "rows", None),
        )

    def layer(self, index: int) -> KV:
        assert isinstance(self.kv, tuple)
        return self.kv[index]


def heads_together(heads: int, mesh: Mesh) -> int:
    """How many heads of a device stand side by side in keys and values: a tile of a TPU's rows."""
    if mesh.devices.flat[0].platform != "tpu":
        return 1
    of_device = heads // mesh.shape["model"]
    return max(count for count in range(1, TILE_ROWS + 1) if of_device % count == 0)


def _beside(x: Float[Array, "B H S K"], together: int) -> Float[Array, "B G S C"]:
    rows, heads, slots, size = x.shape
    x = x.reshape(rows, heads // together, together, slots, size).swapaxes(2, 3)
    return x.reshape(rows, heads // together, slots, together * size)


def _one_row(x: Float[Array, "*L B G S C"], rows: int) -> Float[Array, "*L b G T C"]:
    """The slots of rows that are to share a row, one after the other."""
    *layers, readers, groups, slots, size = x.shape
    apart = jnp.moveaxis(x.reshape(*layers, rows, readers // rows, groups, slots, size), -4, -3)
    return apart.reshape(*layers, rows, groups, -1, size)


def _zeros(shape: tuple[int, ...], dtype: jnp.dtype) -> KV:
    return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def _pad(x: Array, count: int, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, count)
    return jnp.pad(x, widths)


def _update(old: Array, new: Array, slot: Int[Array, ""], axis: int) -> Array:
    return lax.dynamic_update_slice_in_dim(old, new, slot, axis % old.ndim)
