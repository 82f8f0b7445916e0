"""Keys and values of a run of tokens: what a forward pass returns and later ones attend to."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Shaped

from neox_eqx.model.keys_values import KeysValues
from neox_eqx.sharding.rules import constrain


class Segment(eqx.Module):
    """A run of tokens in the past of a forward pass.

    `kv` is a tuple of one KeysValues a layer, or one with a leading layer axis, as the model's
    `layers` are. Slots where `valid` is False hold padding or nothing yet, and are never attended
    to. A segment may have fewer rows than the batch: each then serves equally many neighbouring
    rows of it. `valid` may have more rows than `kv`: one for each row of the batch that reads
    (a reader), so that readers of the same keys and values see different slots.
    """

    kv: KeysValues | tuple[KeysValues, ...]
    valid: Bool[Array, "R S"]

    def emptied(self, rows: int, slots: int, *, readers: int | None = None) -> "Segment":
        """A segment of the same kind with `rows` rows of `slots` empty slots.

        `valid` has a row for each of `readers`, a multiple of `rows`; by default as many.
        """

        def zeros(x: Array | jax.ShapeDtypeStruct) -> Array:
            *layers, _, groups, _, size = x.shape
            return jnp.zeros((*layers, rows, groups, slots, size), x.dtype)

        valid = jnp.zeros((rows if readers is None else readers, slots), bool)
        return Segment(jax.tree.map(zeros, self.kv), valid)

    @property
    def slots(self) -> int:
        return self.valid.shape[1]

    def beside(self, shared: "Segment") -> "Segment":
        """This segment, with a row for each reader, in as many rows of `kv` as `shared` has.

        The slots of readers that share a row stand one after the other in it, and `valid` shows
        each reader its own alone.
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
        """This segment with only the slots where `valid`, of as many rows as `kv`, is True.

        The others become zero: attention multiplies them by its zeros, which would keep a NaN.
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
        """This segment, split by rows and heads over `mesh`; without one as it is."""
        return Segment(
            jax.tree.map(lambda x: constrain(x, mesh, "rows", "heads", None, None), self.kv),
            constrain(self.valid, mesh, "rows", None),
        )

    def layer(self, index: int) -> KeysValues:
        assert isinstance(self.kv, tuple)
        return self.kv[index]


def _one_row(x: Shaped[Array, "*L B G S X"], rows: int) -> Shaped[Array, "*L b G T X"]:
    """Puts the slots of B / b neighbouring rows one after the other: T = S * B / b."""
    *layers, readers, groups, slots, size = x.shape
    apart = jnp.moveaxis(x.reshape(*layers, rows, readers // rows, groups, slots, size), -4, -3)
    return apart.reshape(*layers, rows, groups, -1, size)


def _pad(x: Array, count: int, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, count)
    return jnp.pad(x, widths)


def _update(old: Array, new: Array, slot: Int[Array, ""], axis: int) -> Array:
    return lax.dynamic_update_slice_in_dim(old, new, slot, axis % old.ndim)
