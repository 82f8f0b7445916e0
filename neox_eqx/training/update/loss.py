"""Cross-entropy of the next tokens, without ever holding the logits of a whole sequence."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int

from neox_eqx.sharding.rules import TRAINING_RULES, constrain

Parts = tuple[Float[Array, "N B C D"], Int[Array, "N B C"], Float[Array, "N B C"]]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
    mesh: Mesh | None,
) -> Float32[Array, ""]:
    """The sum of weight × -log softmax(head · hidden)[target], in float32.

    It goes through `chunk` tokens of each row at a time. Where the gradient is wanted too, it is
    computed with the loss, while the logits of a chunk are there, and not by computing them again.
    """

    def add(total: Float32[Array, ""], part: tuple[Array, Array, Array]):
        x, target, weight = part
        logits = _logits(x, head, mesh)
        return total + _weighted(logits, target, weight)[0], None

    return lax.scan(add, jnp.float32(0), _split(hidden, targets, weights, chunk))[0]


def _forward(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
    mesh: Mesh | None,
) -> tuple[Float32[Array, ""], tuple[Float[Array, "B T D"], Float[Array, "V D"]]]:
    """The sum, and its gradients with respect to the hidden states and the head."""

    groups = _groups(len(hidden), mesh)

    def add(
        carry: tuple[Float32[Array, ""], Float32[Array, "G V D"]], part: tuple[Array, Array, Array]
    ):
        total, d_head = carry
        x, target, weight = part
        logits = _logits(x, head, mesh)
        loss, is_target, normaliser = _weighted(logits, target, weight)
        softmax = jnp.exp(logits - normaliser)
        d_logits = jnp.where(is_target, softmax - 1, softmax) * weight[..., None]
        # Rounded to the dtype of the products, as the gradients of all other layers are.
        d_logits = d_logits.astype(x.dtype)
        d_x = _contract(d_logits, head, ((2,), (0,))).astype(x.dtype)
        d_head = d_head + jax.vmap(_gradient)(_grouped(d_logits, groups), _grouped(x, groups))
        return (total + loss, constrain(d_head, mesh, "rows", "vocab", None)), d_x

    nothing = jnp.zeros((groups, *head.shape), jnp.float32)
    start = (jnp.float32(0), constrain(nothing, mesh, "rows", "vocab", None))
    parts = _split(hidden, targets, weights, chunk)
    (total, d_head), d_hidden = lax.scan(add, start, parts)
    d_hidden = _join(d_hidden, hidden.shape[1])
    d_head = constrain(d_head.sum(0), mesh, "vocab", "embed", rules=TRAINING_RULES)
    return total, (d_hidden, d_head.astype(head.dtype))


def _groups(rows: int, mesh: Mesh | None) -> int:
    """How many groups of rows have a gradient of the head of their own through all chunks.

    It is one for each part of the mesh's `data` axis, so that gradients travel once, to be added
    up, and not in each chunk. Rows that do not divide lie on all devices, and are one group.
    """
    devices = mesh.shape[TRAINING_RULES["rows"]] if mesh else 1
    return devices if rows % devices == 0 else 1


def _grouped(x: Float[Array, "B C N"], groups: int) -> Float[Array, "G R C N"]:
    return x.reshape(groups, -1, *x.shape[1:])


def _gradient(d_logits: Float[Array, "R C V"], x: Float[Array, "R C D"]) -> Float32[Array, "V D"]:
    return _contract(d_logits, x, ((0, 1), (0, 1)))


def _backward(
    chunk: int,
    mesh: Mesh | None,
    gradients: tuple[Float[Array, "B T D"], Float[Array, "V D"]],
    scale: Float32[Array, ""],
) -> tuple[Float[Array, "B T D"], Float[Array, "V D"], None, None]:
    d_hidden, d_head = ((scale * x.astype(jnp.float32)).astype(x.dtype) for x in gradients)
    return d_hidden, d_head, None, None


cross_entropy.defvjp(_forward, _backward)


def _logits(
    x: Float[Array, "B C D"], head: Float[Array, "V D"], mesh: Mesh | None
) -> Float32[Array, "B C V"]:
    return constrain(_contract(x, head, ((2,), (1,))), mesh, "rows", None, "vocab")


def _contract(
    a: Float[Array, "..."], b: Float[Array, "..."], axes: tuple[tuple[int, ...], tuple[int, ...]]
) -> Float32[Array, "..."]:
    """Multiplies, and sums over these axes in float32, whatever the dtypes are."""
    return lax.dot_general(
        a,
        b,
        (axes, ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _weighted(
    logits: Float32[Array, "B C V"], target: Int[Array, "B C"], weight: Float[Array, "B C"]
) -> tuple[Float32[Array, ""], Bool[Array, "B C V"], Float32[Array, "B C 1"]]:
    """The loss, a mask of the targets, and the log-sum-exp of the logits."""
    # Compared and summed, not indexed: on a mesh each device has a part of the vocabulary.
    is_target = target[..., None] == jnp.arange(logits.shape[-1])
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    of_target = jnp.where(is_target, logits, 0).sum(-1)
    return ((normaliser[..., 0] - of_target) * weight).sum(), is_target, normaliser


def _split(
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
) -> Parts:
    """The chunks as a leading axis, the last filled up with tokens of no weight."""

    def split(x: Array) -> Array:
        rows, length = x.shape[:2]
        size = min(chunk, length)
        x = jnp.pad(x, [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, -1, size, *x.shape[2:]), 1, 0)

    return split(hidden), split(targets), split(weights)


def _join(parts: Float[Array, "N B C D"], length: int) -> Float[Array, "B T D"]:
    joined = jnp.moveaxis(parts, 0, 1)
    return joined.reshape(joined.shape[0], -1, joined.shape[-1])[:, :length]
