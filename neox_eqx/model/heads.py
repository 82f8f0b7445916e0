"""Heads side by side, and rows that share keys and values: the shapes of attention's products.

A TPU holds arrays in tiles of 8 x 128. Head sizes such as 64 or 96 would be padded to 128, and one
query a head would leave most rows of a tile empty. So keys and values of some heads, here 2 of size
K, stand side by side in one group of width C = 2 K, and a query is as wide, with zeros beside it:

    query of head 0   q0 q0 q0  0  0  0        key, slot 0   k0 k0 k0 k1 k1 k1
    query of head 1    0  0  0 q1 q1 q1        key, slot 1   k0 k0 k0 k1 k1 k1

Their product has the scores of both heads. A product of weights and values has, in each row, the
values of both heads, of which the row's own are kept.

Rows of a batch that share one row of keys and values stand as further queries beside their tokens,
so that all of them are one product with it.
"""

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from neox_eqx.model.kernels.tpu import TILE_ROWS


def heads_together(heads: int, mesh: Mesh) -> int:
    """How many heads stand side by side in a group, of which each device has whole ones.

    On a TPU the largest divisor of a device's heads up to TILE_ROWS, elsewhere 1.
    """
    if mesh.devices.flat[0].platform != "tpu":
        return 1
    of_device = heads // mesh.shape["model"]
    return max(count for count in range(1, TILE_ROWS + 1) if of_device % count == 0)


def side_by_side(x: Shaped[Array, "B H S K"], together: int) -> Shaped[Array, "B G S C"]:
    """Keys or values with `together` heads in each group, C = `together` * K."""
    if together == 1:
        return x
    rows, heads, slots, size = x.shape
    x = x.reshape(rows, heads // together, together, slots, size).swapaxes(2, 3)
    return x.reshape(rows, heads // together, slots, together * size)


def widen(query: Float[Array, "B H T K"], width: int) -> Float[Array, "B G hT C"]:
    """Queries of `width` C: each stands at its head's place in the group, zeros at the others'."""
    batch, heads, length, size = query.shape
    together = width // size
    if together == 1:
        return query
    apart = query.reshape(batch, -1, together, length, 1, size)
    own = jnp.eye(together, dtype=query.dtype)[:, None, :, None]
    return (apart * own).reshape(batch, -1, together * length, width)


def narrow(mixed: Float[Array, "B G hT C"], heads: int, size: int) -> Float[Array, "B H T K"]:
    """Takes from each row, C wide, the K values of the row's own head; `size` is K."""
    batch, groups, _, width = mixed.shape
    together = width // size
    if together == 1:
        return mixed
    apart = mixed.reshape(batch, groups, together, -1, together, size)
    own = jnp.eye(together, dtype=mixed.dtype)[:, None, :, None]
    return (apart * own).sum(-2).reshape(batch, heads, -1, size)


def beside_tokens(x: Float[Array, "B H T X"], rows: int) -> Float[Array, "b H rT X"]:
    """Puts the tokens of the r = B / `rows` neighbouring rows that share keys and values in one."""
    _, heads, length, size = x.shape
    grouped = x.reshape(rows, -1, heads, length, size).swapaxes(1, 2)
    return grouped.reshape(rows, heads, -1, size)


def apart(x: Float[Array, "b H rT X"], shape: tuple[int, ...]) -> Float[Array, "B H T X"]:
    """Undoes `beside_tokens` of an array whose first three dimensions were those of `shape`."""
    batch, heads, length, _ = shape
    rows, _, _, size = x.shape
    grouped = x.reshape(rows, heads, -1, length, size).swapaxes(1, 2)
    return grouped.reshape(batch, heads, length, size)
