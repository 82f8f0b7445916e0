"""Every way to attend gives what all scores at once give, and computes no more than it says."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from neox_eqx.model.attending import Attending, attending
from neox_eqx.model.heads import side_by_side
from neox_eqx.model.kernels.blocks import BLOCK, Blocks
from neox_eqx.model.kernels.cudnn import CuDNN
from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.kernels.flash import Flash
from neox_eqx.model.kernels.fused import Fused
from neox_eqx.model.keys_values import KV
from neox_eqx.model.visible import Visible
from neox_eqx.native import library

ROWS, HEADS, SIZE = 4, 2, 8
LENGTH = 2 * BLOCK + 30
# Measured 1e-6 of values up to 2, and of gradients up to 6.
TOLERANCE = 5e-6
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


def seen(rows: int, slots: int) -> jax.Array:
    """At random, each row's first slot among them."""
    return jnp.asarray(RANDOM.random((rows, slots)) < 0.7).at[:, 0].set(True)


def segment(rows: int, slots: int, together: int = 1) -> KV:
    key, value = normal(rows, HEADS, slots, SIZE), normal(rows, HEADS, slots, SIZE)
    return KV(side_by_side(key, together), side_by_side(value, together))


def documents() -> jax.Array:
    """Documents that end within and at the border of a block, and padding between and after."""
    ids = np.ones((ROWS, LENGTH), np.int32)
    ids[0, 100:300], ids[0, 300:] = 2, 3
    ids[1, BLOCK:], ids[1, 40:60] = 2, 0
    ids[2, -50:] = 0
    return jnp.asarray(ids)


PADDED = seen(ROWS, LENGTH).astype(jnp.int32)
CASES = {
    "a prompt": (Visible(PADDED), ()),
    "documents": (Visible(documents(), packed=True), ()),
    "a shared prefix, a past longer than a block, and an empty one": (
        Visible(PADDED, (seen(ROWS, 10), seen(ROWS, BLOCK + 70), jnp.zeros((ROWS, 5), bool))),
        ((1, 10), (ROWS, BLOCK + 70), (ROWS, 5)),
    ),
    "a prefix that neighbours share": (
        Visible(PADDED, (seen(ROWS, 2 * BLOCK),)),
        ((ROWS // 2, 2 * BLOCK),),
    ),
}


def with_gradients(
    way: Attending, query: jax.Array, segments: Sequence[KV], weight: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[KV, ...]]:
    """What is attended to, and the gradients of its weighted sum."""

    def weighted(arrays: tuple[jax.Array, tuple[KV, ...]], way: Attending) -> jax.Array:
        return (way.attend(*arrays) * weight).sum()

    arrays = query, tuple(segments)
    return run(way, *arrays), *jax.jit(jax.grad(weighted))(arrays, way)


@jax.jit
def run(way: Attending, query: jax.Array, segments: tuple[KV, ...]) -> jax.Array:
    return way.attend(query, segments)


def fused(visible: Visible, mesh: Mesh | None = None) -> Fused:
    if not library.is_available():
        pytest.skip("there is no C++ compiler, or the library is turned off")
    return Fused(visible, mesh, Blocks(visible))


@pytest.mark.typed
@pytest.mark.parametrize("way", [Blocks, fused])
@pytest.mark.parametrize(("case", "together"), [*zip(CASES, (1, 1, 2, 1), strict=True)])
def test_blocks_attend_as_all_scores_at_once(
    way: Callable[[Visible], Attending], case: str, together: int
) -> None:
    visible, shapes = CASES[case]
    sizes = (*shapes, (ROWS, LENGTH))
    segments = [segment(rows, slots, together) for rows, slots in sizes]
    query, weight = normal(ROWS, HEADS, LENGTH, SIZE), normal(ROWS, HEADS, LENGTH, SIZE)
    real = visible.ids[:, None, :, None] > 0  # the result at padding is nobody's
    arrays = query, segments, jnp.where(real, weight, 0)
    expected, *expected_gradients = with_gradients(Dense(visible.mask()), *arrays)
    actual, *gradients = with_gradients(way(visible), *arrays)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(jnp.where(real, actual, expected), expected, atol=TOLERANCE)
    compare = zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True)
    for ours, theirs in compare:
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_blocks_in_16_bits_are_as_near_to_float32_as_all_scores_at_once() -> None:
    visible, _ = CASES["documents"]
    query, kv = normal(ROWS, HEADS, LENGTH, SIZE), segment(ROWS, LENGTH)
    exact = Dense(visible.mask()).attend(query, (kv,))
    real = visible.ids[:, None, :, None] > 0
    low, low_kv = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (query, kv))

    def error(way: Attending) -> float:
        output = way.attend(low, (low_kv,))
        assert output.dtype == jnp.bfloat16
        return float(jnp.where(real, abs(output.astype(jnp.float32) - exact), 0).mean())

    assert error(Blocks(visible)) < 1.05 * error(Dense(visible.mask()))


def test_nothing_is_computed_above_the_diagonal_or_after_the_last_slot_that_is_seen() -> None:
    """A weight of 0 times NaN is NaN: the numbers stay real where the slots were never read."""
    query, new, past = normal(1, HEADS, 3 * BLOCK, SIZE), segment(1, 3 * BLOCK), segment(1, 900)
    nan = KV(new.key, new.value.at[:, :, 2 * BLOCK :].set(jnp.nan))
    of_past = KV(past.key, past.value.at[:, :, 2 * BLOCK :].set(jnp.nan))
    sees = jnp.arange(900)[None] < 2 * BLOCK - 5
    visible = Visible(jnp.ones((1, 3 * BLOCK), jnp.int32), (sees,))
    output = np.asarray(Blocks(visible).attend(query, (of_past, nan)))
    assert np.isfinite(output[:, :, : 2 * BLOCK]).all()
    assert np.isnan(output[:, :, 2 * BLOCK :]).all()
    all_scores = np.asarray(Dense(visible.mask()).attend(query, (of_past, nan)))
    assert np.isnan(all_scores).all()  # control


def temporary_bytes(way: type[Dense] | type[Blocks], length: int, *, backward: bool) -> int:
    """What a compiled program needs beside its arguments and results."""

    def attended(query: jax.Array, key: jax.Array, value: jax.Array, ids: jax.Array) -> jax.Array:
        visible = Visible(ids)
        made = Blocks(visible) if way is Blocks else Dense(visible.mask())
        return made.attend(query, (KV(key, value),)).sum()

    program = jax.jit(jax.grad(attended, argnums=(0, 1, 2)) if backward else attended)
    x = jax.ShapeDtypeStruct((1, HEADS, length, SIZE), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    memory = program.lower(x, x, x, ids).compile().memory_analysis()
    return int(memory.temp_size_in_bytes)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_grows_with_the_length_and_not_with_its_square(backward: bool) -> None:
    length = 16 * BLOCK
    ours = temporary_bytes(Blocks, length, backward=backward)
    of_block, of_arrays = HEADS * BLOCK**2 * 4, HEADS * length * SIZE * 4
    assert ours < 6 * of_block + 10 * of_arrays
    all_pairs = HEADS * length**2 * 4
    assert ours < all_pairs / 10
    assert temporary_bytes(Dense, length, backward=backward) > all_pairs  # control


@pytest.mark.parametrize("way", [lambda visible, mesh: Blocks(visible), fused])
@pytest.mark.parametrize("case", CASES)
def test_on_a_mesh_blocks_attend_as_on_one_device(
    way: Callable[[Visible, Mesh | None], Attending], case: str
) -> None:
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    visible, shapes = CASES[case]
    query = normal(ROWS, HEADS, LENGTH, SIZE)
    segments = tuple(segment(rows, slots) for rows, slots in (*shapes, (ROWS, LENGTH)))
    expected = run(way(visible, None), query, segments)
    placed = jax.NamedSharding(mesh, jax.P("data", "model"))
    of_one_row = jax.NamedSharding(mesh, jax.P(None, "model"))
    arrays = jax.tree.map(
        lambda x: jax.device_put(x, of_one_row if len(x) == 1 else placed), (query, segments)
    )
    program = run.lower(way(visible, mesh), *arrays).compile()
    actual = program(way(visible, mesh), *arrays)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)
    assert actual.sharding.is_equivalent_to(placed, 4)
    assert "all-gather" not in program.as_text()


@pytest.mark.typed
def test_cudnn_attends_as_all_scores_at_once() -> None:
    """By the same function of JAX with its own products in place of cuDNN's, which needs a GPU."""
    visible, _ = CASES["a prompt"]
    query, kv = normal(ROWS, HEADS, LENGTH, SIZE), segment(ROWS, LENGTH)
    way = CuDNN.of(visible)
    actual = CuDNN(way.order, way.lengths, "xla").attend(query, (kv,))
    expected = Dense(visible.mask()).attend(query, (kv,))
    real = visible.ids[:, None, :, None] > 0
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(jnp.where(real, actual, expected), expected, atol=TOLERANCE)


def chosen(
    platform: str,
    monkeypatch: pytest.MonkeyPatch,
    length: int = 1024,
    past: tuple[jax.Array, ...] = (),
    *,
    size: int = 64,
    dtype: str = "bfloat16",
    packed: bool = False,
    drops: bool = False,
) -> type:
    monkeypatch.setattr("neox_eqx.model.attending.platform_of", lambda mesh: platform)
    visible = Visible(jnp.ones((1, length), jnp.int32), past, packed)
    return type(attending(visible, None, head_size=size, dtype=jnp.dtype(dtype), drops=drops))


def test_each_platform_has_its_kernel_where_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    past = (jnp.ones((1, 40), bool),)
    of = {platform: (platform, monkeypatch) for platform in ("cpu", "gpu", "tpu")}
    assert chosen(*of["tpu"]) is chosen(*of["tpu"], packed=True) is Flash
    assert chosen(*of["tpu"], 1000) is chosen(*of["tpu"], 1024, past) is Dense
    assert chosen(*of["gpu"]) is chosen(*of["gpu"], dtype="float16", size=96) is CuDNN
    for unfit in ({"dtype": "float32"}, {"size": 12}, {"size": 136}, {"packed": True}):
        assert chosen(*of["gpu"], **unfit) is Blocks
    assert chosen(*of["gpu"], 1024, past) is Blocks
    for platform in of.values():
        # A token, few tokens, and dropout:
        assert chosen(*platform, 1) is chosen(*platform, 63, past) is Dense
        assert chosen(*platform, drops=True) is Dense
    for platform in (of["gpu"], of["tpu"]):
        assert chosen(*platform, BLOCK - 1) is Dense


@pytest.mark.parametrize("there", [False, True])
def test_a_cpu_has_the_library_where_that_is_there(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "is_available", lambda: there)
    past = (jnp.ones((1, 40), bool),)
    for length, without in ((1024, Blocks), (BLOCK + 1, Blocks), (BLOCK, Dense), (64, Dense)):
        on_cpu = Fused if there else without
        for own in ({}, {"packed": True}, {"past": past}):
            assert chosen("cpu", monkeypatch, length, **own) is on_cpu
    assert chosen("cpu", monkeypatch, 63) is Dense
