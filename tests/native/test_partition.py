"""On a mesh, each device multiplies with its own part of a weight, and nothing of it moves."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.native.weights import FORMS, Weight, normal, weight

OUT, SIZE = 128, 256


@pytest.fixture
def mesh() -> Mesh:
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    return Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))


def split_weight(own: Weight, n: str | None, k: str | None) -> list[P]:
    """Its arrays' specs; those of rows alone have no second axis."""
    return [P(n, k) if array.ndim > 1 else P(n) for array in own.arrays]


def compiled(
    mesh: Mesh, product: Callable[..., Any], specs: list[P], arrays: tuple[Any, ...]
) -> tuple[jax.Array, str]:
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]
    program = jax.jit(product).lower(*placed).compile()
    return program(*placed), program.as_text()


def collectives(text: str) -> dict[str, int]:
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in names}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_weight_stay_on_their_devices(
    instruction_sets: list[str], mesh: Mesh, form: str
) -> None:
    own, x = weight(form, OUT, SIZE), normal(4, 3, SIZE)
    specs = [P("data"), *split_weight(own, "model", None)]
    y, text = compiled(mesh, own.product, specs, (x, *own.arrays))
    assert collectives(text) == {}
    assert y.sharding.spec == P("data", None, "model")
    np.testing.assert_array_equal(y, own(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_x", [P(), P("data", None, "model")])
def test_sums_over_a_split_input_are_added_once(
    instruction_sets: list[str], mesh: Mesh, form: str, of_x: P
) -> None:
    own, x = weight(form, OUT, SIZE), normal(4, 3, SIZE)
    specs = [of_x, *split_weight(own, None, "model")]
    y, text = compiled(mesh, own.product, specs, (x, *own.arrays))
    assert collectives(text) == {"all-reduce": 1}
    np.testing.assert_allclose(y, own(x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form", ["bfloat16", "tiles4"])
def test_a_weight_may_be_split_both_ways(
    instruction_sets: list[str], mesh: Mesh, form: str
) -> None:
    own, x = weight(form, OUT, SIZE), normal(4, 3, SIZE)
    specs = [P(None, None, "data"), *split_weight(own, "model", "data")]
    y, text = compiled(mesh, own.product, specs, (x, *own.arrays))
    assert collectives(text) == {"all-reduce": 1}
    assert y.sharding.spec == P(None, None, "model")
    np.testing.assert_allclose(y, own(x), rtol=2e-5, atol=2e-5)


def test_tiles_whose_groups_do_not_divide_are_gathered(
    instruction_sets: list[str], mesh: Mesh
) -> None:
    own, x = weight("tiles4", 32, 64), normal(2, 64)
    specs = [P(), P(None, "model"), P()]  # 8 entries of codes divide by 4, and 2 groups do not
    y, _ = compiled(mesh, own.product, specs, (x, *own.arrays))
    np.testing.assert_array_equal(y, own(x))


def test_products_that_are_added_share_their_all_reduce(
    instruction_sets: list[str], mesh: Mesh
) -> None:
    own, x = weight("int8", OUT, SIZE), normal(3, SIZE)
    specs = [P(None, "model"), *split_weight(own, None, "model")]
    both = lambda x, *arrays: own.product(x, *arrays) + own.product(2 * x, *arrays)  # noqa: E731
    _, text = compiled(mesh, both, specs, (x, *own.arrays))
    assert collectives(text) == {"all-reduce": 1}


def test_a_gradient_lies_where_its_weight_lies(instruction_sets: list[str], mesh: Mesh) -> None:
    own, x = weight("bfloat16", OUT, SIZE), normal(4, SIZE)
    gradient = jax.grad(lambda x, w: (own.product(x, w) ** 2).sum(), 1)
    specs = [P("data"), *split_weight(own, "model", None)]
    found, text = compiled(mesh, gradient, specs, (x, *own.arrays))
    assert collectives(text) == {"all-reduce": 1}
    assert found.sharding.spec[:1] == ("model",)
    alone = jax.jit(gradient)(x, *own.arrays)
    np.testing.assert_allclose(found.astype(jnp.float32), alone.astype(jnp.float32), rtol=0.01)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", [True, False])
def test_shard_map_runs_it_on_each_device(
    instruction_sets: list[str], mesh: Mesh, form: str, check: bool
) -> None:
    own, x = weight(form, OUT, SIZE), jnp.asarray(normal(4, SIZE))
    specs = (P("data"), *split_weight(own, "model", None))
    mapped = jax.shard_map(
        own.product, mesh=mesh, in_specs=specs, out_specs=P("data", "model"), check_vma=check
    )
    np.testing.assert_array_equal(jax.jit(mapped)(x, *own.arrays), own(x))


def test_scan_on_a_mesh_gives_the_bits_of_one_device(
    instruction_sets: list[str], mesh: Mesh
) -> None:
    own, x = weight("bfloat16", 64, 64), normal(2, 64)
    stack = jnp.stack([own.arrays[0]] * 3)
    scan = lambda x, stack: lax.scan(lambda y, w: (own.product(y, w), None), x, stack)[0]  # noqa: E731
    y, _ = compiled(mesh, scan, [P("data"), P(None, "model")], (x, stack))
    np.testing.assert_array_equal(y, jax.jit(scan)(x, stack))
