"""Programs of four chips that send each other what is planted in them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from tests.planning.chips import F32, P, Planted, on, spread, square


def all_reduce(mesh: Mesh) -> Planted:
    def f(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(lax.psum(x @ w, "x")), None), x, weights)[0]

    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 6, 1024, 1024)], ()


def two_all_reduces(mesh: Mesh) -> Planted:
    def f(x, weights):
        def step(x, w):
            return lax.psum(jnp.tanh(lax.psum(x @ w, "x")) @ w, "x"), None

        return lax.scan(step, x, weights)[0]

    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 6, 1024, 1024)], ()


def all_reduce_of_two(mesh: Mesh) -> Planted:
    def f(x, y):
        return lax.psum((jnp.tanh(x), jnp.tanh(y)), "x")

    return spread(mesh, f, (P(), P()), P()), [on(mesh, 8, 1024), on(mesh, 8, 96)], ()


def all_reduce_by_the_compiler(mesh: Mesh) -> Planted:
    """Split matrices, without a word about what is sent."""
    halves = [on(mesh, 1024, 4096, spec=P(None, "x")), on(mesh, 4096, 1024, spec=P("x"))]
    return (lambda x, w, v: (x @ w) @ v), [on(mesh, 8, 1024), *halves], ()


def all_reduce_over_one_axis(mesh: Mesh) -> Planted:
    def f(x):
        return lax.psum(jnp.tanh(x), "model")

    mesh = square(mesh)
    return spread(mesh, f, P("data"), P("data")), [on(mesh, 64, 1024, spec=P("data"))], ()


def all_reduce_by_the_compiler_over_one_axis(mesh: Mesh) -> Planted:
    mesh = square(mesh)
    x, w = on(mesh, 8, 1024, spec=P("data")), on(mesh, 1024, 4096, spec=P(None, "model"))
    v = on(mesh, 4096, 1024, spec=P("model"))
    return (lambda x, w, v: jnp.tanh(x @ w) @ v), [x, w, v], ()


def all_gather(mesh: Mesh) -> Planted:
    def f(x):
        return lax.all_gather(x, "x", tiled=True)

    return spread(mesh, f, P("x"), P()), [on(mesh, 512, 1024, spec=P("x"))], ()


def reduce_scatter(mesh: Mesh) -> Planted:
    def f(x):
        return lax.psum_scatter(x, "x", tiled=True)

    return spread(mesh, f, P(), P("x")), [on(mesh, 512, 1024)], ()


def fused_reduce_scatter(mesh: Mesh) -> Planted:
    """The gradient of gathered weights, which the TPU sums and slices in one fusion."""

    def layers(x, weights):
        def step(x, w):
            return jnp.tanh(x @ lax.all_gather(w, "x", tiled=True)), None

        return lax.scan(step, x, weights)[0]

    def loss(weights, x):
        run = spread(mesh, layers, (P("x"), P(None, "x")), P("x"))
        return (run(x, weights).astype(F32) ** 2).mean()

    weights = on(mesh, 6, 2048, 2048, spec=P(None, "x"))
    return jax.grad(loss), [weights, on(mesh, 8192, 2048, spec=P("x"))], ()


def all_to_all(mesh: Mesh) -> Planted:
    def f(x):
        return lax.all_to_all(x, "x", 0, 1, tiled=True)

    return spread(mesh, f, P("x"), P("x")), [on(mesh, 64, 1024, spec=P("x"))], ()


def permute(mesh: Mesh) -> Planted:
    def f(x):
        return lax.ppermute(x, "x", [(chip, (chip + 1) % 4) for chip in range(4)])

    return spread(mesh, f, P("x"), P("x")), [on(mesh, 512, 1024, spec=P("x"))], ()


PLANTED = (
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
