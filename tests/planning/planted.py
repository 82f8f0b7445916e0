"""Compiles programs with planted costs for a TPU, and writes what the compiler made of them.

Run as `python planted.py FOLDER`, in a process of its own: libtpu takes one over. Each function
in `PLANTED` gets the mesh of a v5e slice of 2x2 chips and returns a function to compile, the
shapes of its arguments, and the numbers of those that it may overwrite.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, shard_map
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

P = PartitionSpec
EVERYWHERE = P()
BF16, F32, S8, S32 = jnp.bfloat16, jnp.float32, jnp.int8, jnp.int32
Planted = tuple[Callable, list[jax.ShapeDtypeStruct], tuple[int, ...]]


def on(
    mesh: Mesh, *shape: int, dtype=BF16, spec=EVERYWHERE, order=None, memory=None
) -> jax.ShapeDtypeStruct:
    """An argument on `mesh`; with an `order`, laid out so, from the outermost dimension."""
    sharding = NamedSharding(mesh, spec, memory_kind=memory)
    place = sharding if order is None else Format(Layout(order), sharding)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def layers(x, weights):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def scan(mesh: Mesh) -> Planted:
    one = alone(mesh)
    return layers, [on(one, 8, 4096), on(one, 6, 4096, 4096)], ()


def scan_int8(mesh: Mesh) -> Planted:
    one = alone(mesh)

    def f(x, weights):
        step = lambda x, w: (jnp.tanh(x @ w.astype(x.dtype)), None)  # noqa: E731
        return lax.scan(step, x, weights)[0]

    return f, [on(one, 8, 4096), on(one, 6, 4096, 4096, dtype=S8)], ()


def loops_in_loops(mesh: Mesh) -> Planted:
    one = alone(mesh)

    def f(x, weights):
        return lax.fori_loop(2, 5, lambda i, x: layers(x, weights) + i.astype(x.dtype), x)

    return f, [on(one, 8, 4096), on(one, 4, 4096, 4096)], ()


def count_down(mesh: Mesh) -> Planted:
    """Takes a weight of 128 MiB for i = 20, 17, ... 2: seven times."""

    def f(x, w):
        step = lambda c: (c[0] - 3, jnp.tanh(c[1] @ w))  # noqa: E731
        return lax.while_loop(lambda c: c[0] >= 0, step, (jnp.int32(20), x))[1]

    one = alone(mesh)
    return f, [on(one, 8, 8192), on(one, 8192, 8192)], ()


def decode(mesh: Mesh) -> Planted:
    """Runs until the data say so; each step writes one slot of a cache in its place."""

    def f(x, weights, cache, until):
        def step(carry):
            i, x, cache = carry
            x = layers(x, weights)
            return i + 1, x, lax.dynamic_update_slice(cache, x[None], (i, 0, 0))

        return lax.while_loop(lambda c: c[0] < until, step, (jnp.int32(0), x, cache))

    one = alone(mesh)
    args = [on(one, 8, 4096), on(one, 6, 4096, 4096), on(one, 2048, 8, 4096)]
    return f, [*args, on(one, dtype=S32)], (2,)


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


def write_slot(mesh: Mesh, donate: tuple[int, ...] = (0,)) -> Planted:
    """One row of 1,024 into a cache of 64 x 1,024 rows."""
    f = lambda cache, new, i: lax.dynamic_update_slice(cache, new, (0, i, 0))  # noqa: E731
    one = alone(mesh)
    args = [on(one, 64, 1024, 1024, order=(0, 1, 2)), on(one, 64, 1, 1024, order=(0, 1, 2))]
    return f, [*args, on(one, dtype=S32)], donate


def write_slot_of_a_copy(mesh: Mesh) -> Planted:
    return write_slot(mesh, donate=())


def write_lane(mesh: Mesh) -> Planted:
    """One lane of the 128 in a tile."""
    f = lambda cache, new, i: lax.dynamic_update_slice(cache, new, (0, 0, i))  # noqa: E731
    one = alone(mesh)
    args = [on(one, 64, 1024, 1024, order=(0, 1, 2)), on(one, 64, 1024, 1, order=(0, 1, 2))]
    return f, [*args, on(one, dtype=S32)], (0,)


def write_two_caches(mesh: Mesh) -> Planted:
    """Keys and values of a layer, from one fusion."""

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
    one = alone(mesh)
    return (lambda x: x[3:5]), [on(one, 64, 1024, 1024)], ()


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
    one = alone(mesh)
    f = lambda x: x.astype(F32).sum()  # noqa: E731
    return f, [on(one, 64, 1024, 96, order=(0, 1, 2))], ()


def transposed(mesh: Mesh) -> Planted:
    one = alone(mesh)
    place = Format(Layout((2, 0, 1)), NamedSharding(one, P()))
    f = jax.jit(lambda x: x, out_shardings=place)
    return f, [on(one, 64, 1024, 1024, order=(0, 1, 2))], ()


def joined(mesh: Mesh) -> Planted:
    one = alone(mesh)
    parts = [on(one, 8, size, 4096) for size in (1536, 2560)]
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

    def f(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, unroll=6)[0]

    one = alone(mesh)
    return f, [on(one, 8, 1024), on(one, 6, 1024, 1024)], ()


def streamed(mesh: Mesh) -> Planted:
    """Weights in the host's memory, a layer at a time into HBM."""

    def f(x, weights):
        def step(x, w):
            return jnp.tanh(x @ jax.device_put(w, jax.memory.Space.Device)), None

        return lax.scan(step, x, weights)[0]

    one = alone(mesh)
    return f, [on(one, 8, 2048), on(one, 6, 2048, 2048, memory="pinned_host")], ()


def all_reduce(mesh: Mesh) -> Planted:
    def f(x, weights):
        step = lambda x, w: (jnp.tanh(lax.psum(x @ w, "x")), None)  # noqa: E731
        return lax.scan(step, x, weights)[0]

    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 6, 1024, 1024)], ()


def two_all_reduces(mesh: Mesh) -> Planted:
    def f(x, weights):
        def step(x, w):
            return lax.psum(jnp.tanh(lax.psum(x @ w, "x")) @ w, "x"), None

        return lax.scan(step, x, weights)[0]

    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 6, 1024, 1024)], ()


def all_reduce_of_two(mesh: Mesh) -> Planted:
    f = lambda x, y: lax.psum((jnp.tanh(x), jnp.tanh(y)), "x")  # noqa: E731
    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 8, 96)], ()


def all_reduce_by_the_compiler(mesh: Mesh) -> Planted:
    """Split matrices without a word about collectives."""
    args = [on(mesh, 8, 1024), on(mesh, 1024, 4096, spec=P(None, "x"))]
    return (lambda x, w, v: (x @ w) @ v), [*args, on(mesh, 4096, 1024, spec=P("x"))], ()


def all_reduce_over_one_axis(mesh: Mesh) -> Planted:
    square = Mesh(mesh.devices.reshape(2, 2), ("data", "model"))
    f = lambda x: lax.psum(jnp.tanh(x), "model")  # noqa: E731
    return spread(square, f, P("data"), P("data")), [on(square, 64, 1024, spec=P("data"))], ()


def all_reduce_by_the_compiler_over_one_axis(mesh: Mesh) -> Planted:
    square = Mesh(mesh.devices.reshape(2, 2), ("data", "model"))
    args = [on(square, 8, 1024, spec=P("data")), on(square, 1024, 4096, spec=P(None, "model"))]
    last = on(square, 4096, 1024, spec=P("model"))
    return (lambda x, w, v: jnp.tanh(x @ w) @ v), [*args, last], ()


def all_gather(mesh: Mesh) -> Planted:
    f = lambda x: lax.all_gather(x, "x", tiled=True)  # noqa: E731
    return spread(mesh, f, P("x"), P()), [on(mesh, 512, 1024, spec=P("x"))], ()


def reduce_scatter(mesh: Mesh) -> Planted:
    f = lambda x: lax.psum_scatter(x, "x", tiled=True)  # noqa: E731
    return spread(mesh, f, P(), P("x")), [on(mesh, 512, 1024)], ()


def fused_reduce_scatter(mesh: Mesh) -> Planted:
    """The gradient of gathered weights, which the TPU sums and slices in one fusion."""

    def f(weights, x):
        step = lambda x, w: (jnp.tanh(x @ lax.all_gather(w, "x", tiled=True)), None)  # noqa: E731
        run = spread(mesh, lambda x, w: lax.scan(step, x, w)[0], (P("x"), P(None, "x")), P("x"))
        return (run(x, weights).astype(F32) ** 2).mean()

    weights = on(mesh, 6, 2048, 2048, spec=P(None, "x"))
    return jax.grad(f), [weights, on(mesh, 8192, 2048, spec=P("x"))], ()


def all_to_all(mesh: Mesh) -> Planted:
    f = lambda x: lax.all_to_all(x, "x", 0, 1, tiled=True)  # noqa: E731
    return spread(mesh, f, P("x"), P("x")), [on(mesh, 64, 1024, spec=P("x"))], ()


def permute(mesh: Mesh) -> Planted:
    ring = [(chip, (chip + 1) % 4) for chip in range(4)]
    f = lambda x: lax.ppermute(x, "x", ring)  # noqa: E731
    return spread(mesh, f, P("x"), P("x")), [on(mesh, 512, 1024, spec=P("x"))], ()


def alone(mesh: Mesh) -> Mesh:
    """The first chip of a mesh."""
    return Mesh(mesh.devices.flat[:1], ("x",))


def spread(mesh: Mesh, f: Callable, inputs, output) -> Callable:
    return shard_map(f, mesh=mesh, in_specs=inputs, out_specs=output, check_vma=False)


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
    all_reduce,
    two_all_reduces,
    all_reduce_of_two,
    all_reduce_by_the_compiler,
    all_reduce_over_one_axis,
    all_reduce_by_the_compiler_over_one_axis,
    all_gather,
    reduce_scatter,
    fused_reduce_scatter,
    all_to_all,
    permute,
)


def main(folder: Path) -> None:
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips), ("x",))
    for planted in PLANTED:
        f, args, overwritten = planted(mesh)
        compiled = jax.jit(f, donate_argnums=overwritten).lower(*args).compile()
        (folder / f"{planted.__name__}.hlo").write_text(compiled.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
