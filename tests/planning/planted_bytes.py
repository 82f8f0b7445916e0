"""Programs of one chip whose traffic with its memory is a matter of arithmetic."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

from tests.planning.chips import EVERYWHERE, F32, S8, S32, Planted, alone, on


def layers(x, weights, unroll=1):
    def layer(x, w):
        return jnp.tanh(x @ w.astype(x.dtype)), None

    return lax.scan(layer, x, weights, unroll=unroll)[0]


def scan(mesh: Mesh) -> Planted:
    one = alone(mesh)
    return layers, [on(one, 8, 4096), on(one, 6, 4096, 4096)], ()


def scan_int8(mesh: Mesh) -> Planted:
    one = alone(mesh)
    return layers, [on(one, 8, 4096), on(one, 6, 4096, 4096, dtype=S8)], ()


def loops_in_loops(mesh: Mesh) -> Planted:
    def f(x, weights):
        return lax.fori_loop(2, 5, lambda i, x: layers(x, weights) + i.astype(x.dtype), x)

    one = alone(mesh)
    return f, [on(one, 8, 4096), on(one, 4, 4096, 4096)], ()


def count_down(mesh: Mesh) -> Planted:
    """Takes a weight of 128 MiB for i = 20, 17, ... 2: seven times."""

    def f(x, w):
        def step(carry):
            i, x = carry
            return i - 3, jnp.tanh(x @ w)

        return lax.while_loop(lambda carry: carry[0] >= 0, step, (jnp.int32(20), x))[1]

    one = alone(mesh)
    return f, [on(one, 8, 8192), on(one, 8192, 8192)], ()


def decode(mesh: Mesh) -> Planted:
    """Runs until the data say so; each step writes one slot of a cache in its place."""

    def f(x, weights, cache, until):
        def step(carry):
            i, x, cache = carry
            x = layers(x, weights)
            return i + 1, x, lax.dynamic_update_slice(cache, x[None], (i, 0, 0))

        return lax.while_loop(lambda carry: carry[0] < until, step, (jnp.int32(0), x, cache))

    one = alone(mesh)
    arrays = [on(one, 8, 4096), on(one, 6, 4096, 4096), on(one, 2048, 8, 4096)]
    return f, [*arrays, on(one, dtype=S32)], (2,)


def copies_the_cache(mesh: Mesh) -> Planted:
    """Both the old and the new cache are needed, in every trip of a loop."""

    def f(x, cache):
        def step(carry, i):
            x, cache = carry
            new = lax.dynamic_update_slice(cache, jnp.tanh(x)[None], (i, 0, 0))
            return (x + cache[i] + new[7], new), None

        return lax.scan(step, (x, cache), jnp.arange(5) * 3)[0]

    one = alone(mesh)
    return f, [on(one, 8, 4096), on(one, 4096, 8, 4096)], ()


def write_slot(mesh: Mesh) -> Planted:
    """One row of 1,024 into each block of 1,024 rows."""

    def f(cache, new, i):
        return lax.dynamic_update_slice(cache, new, (0, i, 0))

    one = alone(mesh)
    arrays = [on(one, 64, 1024, 1024, order=(0, 1, 2)), on(one, 64, 1, 1024, order=(0, 1, 2))]
    return f, [*arrays, on(one, dtype=S32)], (0,)


def write_slot_of_a_copy(mesh: Mesh) -> Planted:
    f, args, _ = write_slot(mesh)
    return f, args, ()


def write_lane(mesh: Mesh) -> Planted:
    """One lane of the 128 in a tile."""

    def f(cache, new, i):
        return lax.dynamic_update_slice(cache, new, (0, 0, i))

    one = alone(mesh)
    arrays = [on(one, 64, 1024, 1024, order=(0, 1, 2)), on(one, 64, 1024, 1, order=(0, 1, 2))]
    return f, [*arrays, on(one, dtype=S32)], (0,)


def write_two_caches(mesh: Mesh) -> Planted:
    """What is written comes from one fusion with the product."""

    def f(x, w, keys, values):
        def step(carry, i):
            x, keys, values = carry
            x = jnp.tanh(x @ w)
            keys = lax.dynamic_update_slice(keys, x[None], (i, 0, 0))
            values = lax.dynamic_update_slice(values, (1 - x)[None], (i, 0, 0))
            return (x, keys, values), None

        return lax.scan(step, (x, keys, values), jnp.arange(6))[0]

    one = alone(mesh)
    caches = [on(one, 6, 1024, 4096)] * 2
    return f, [on(one, 1024, 4096), on(one, 4096, 4096), *caches], (2, 3)


def through_vector_memory(mesh: Mesh) -> Planted:
    """Layers of a cache go through a scan, which copies each in and out."""

    def f(x, cache):
        def step(x, layer):
            return x + layer[:, 0], lax.dynamic_update_slice(layer, x[:, None], (0, 3, 0))

        return lax.scan(step, x, cache)

    one = alone(mesh)
    return f, [on(one, 8, 2048), on(one, 6, 8, 1024, 2048)], (1,)


def cut_out(mesh: Mesh) -> Planted:
    return (lambda x: x[3:5]), [on(alone(mesh), 64, 1024, 1024)], ()


def slice_of_a_slice(mesh: Mesh) -> Planted:
    def f(cache, i, j):
        layer = lax.dynamic_index_in_dim(cache, i, 0, keepdims=False)
        return 2 * lax.dynamic_slice(layer, (j, 0), (256, 1024))

    one = alone(mesh)
    return f, [on(one, 64, 1024, 1024), on(one, dtype=S32), on(one, dtype=S32)], ()


def rows_of_a_table(mesh: Mesh) -> Planted:
    one = alone(mesh)
    return (lambda w, i: w[i]), [on(one, 50000, 2048), on(one, 64, dtype=S32)], ()


def head_of_96(mesh: Mesh) -> Planted:
    x = on(alone(mesh), 64, 1024, 96, order=(0, 1, 2))
    return (lambda x: x.astype(F32).sum()), [x], ()


def transposed(mesh: Mesh) -> Planted:
    """The same array with its last dimension outermost."""
    one = alone(mesh)
    place = Format(Layout((2, 0, 1)), NamedSharding(one, EVERYWHERE))
    f = jax.jit(lambda x: x, out_shardings=place)
    return f, [on(one, 64, 1024, 1024, order=(0, 1, 2))], ()


def joined(mesh: Mesh) -> Planted:
    parts = [on(alone(mesh), 8, size, 4096) for size in (1536, 2560)]
    return (lambda x, y: jnp.concatenate((x, y), axis=1)), parts, ()


def stays_in_vector_memory(mesh: Mesh) -> Planted:
    """32 MiB come in before two nested loops and go out behind them."""

    def f(x):
        def step(i, x):
            return lax.fori_loop(0, 3, lambda j, x: jnp.tanh(x) + i.astype(x.dtype), x)

        return lax.fori_loop(2, 14, step, x)

    return f, [on(alone(mesh), 4096, 4096)], ()


def prefetched(mesh: Mesh) -> Planted:
    """Straight-line layers, whose weights the compiler fetches ahead of their use."""
    one = alone(mesh)
    args = [on(one, 8, 1024), on(one, 6, 1024, 1024)]
    return (lambda x, weights: layers(x, weights, unroll=6)), args, ()


def streamed(mesh: Mesh) -> Planted:
    """Weights in the host's memory, a layer at a time into HBM."""

    def f(x, weights):
        def step(x, w):
            return jnp.tanh(x @ jax.device_put(w, jax.memory.Space.Device)), None

        return lax.scan(step, x, weights)[0]

    one = alone(mesh)
    return f, [on(one, 8, 2048), on(one, 6, 2048, 2048, memory="pinned_host")], ()


PLANTED = (
    scan,
    scan_int8,
    loops_in_loops,
    count_down,
    decode,
    copies_the_cache,
    write_slot,
    write_slot_of_a_copy,
    write_lane,
    write_two_caches,
    through_vector_memory,
    cut_out,
    slice_of_a_slice,
    rows_of_a_table,
    head_of_96,
    transposed,
    joined,
    stays_in_vector_memory,
    prefetched,
    streamed,
)
