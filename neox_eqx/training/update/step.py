"""The training step: a batch's loss and gradients, and the update they make."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int

from neox_eqx.model.adapt import adapted
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.embedding import Embedding
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.quantized import cast
from neox_eqx.sharding.rules import TRAINING_RULES, constrain, parameter_shardings
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.forward import hidden_states
from neox_eqx.training.update.gather import gather
from neox_eqx.training.update.loss import cross_entropy
from neox_eqx.training.update.optimizer import learning_rate, update
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.trained import Trained, join


class Metrics(eqx.Module):
    """What is reported of a step; every device has the same numbers."""

    loss: Float32[Array, ""]
    """The mean over the batch, weighted as its tokens are."""
    gradient_norm: Float32[Array, ""]
    """Before clipping."""
    learning_rate: Float32[Array, ""]
    finite: Bool[Array, ""]
    """Whether loss and gradients are. If not, the step changed no parameter and no moment."""


@partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def train_step(
    state: TrainState, batch: Batch, recipe: Recipe, frozen: GPTNeoX | None = None
) -> tuple[TrainState, Metrics]:
    """One update by one batch; the state's buffers are used for the new one.

    `frozen` are the parameters that `trainable` returns beside those that are trained; its buffers
    stay. A batch in which no token has a weight has no loss, and counts as not finite.
    """
    loss, gradients = loss_and_gradients(state.model, batch, recipe, state.step, frozen)
    norm = optax.tree.norm(gradients)
    # A loss that is not finite is as bad as gradients that are not.
    checked = jnp.where(jnp.isfinite(loss), norm, jnp.nan)
    model, moments, finite = update(recipe, gradients, checked, state.optimizer, state.model)
    missed = jnp.where(finite, 0, 1)
    rate = learning_rate(recipe, state.step - state.skipped)
    after = TrainState(
        model,
        moments,
        step=state.step + 1,
        skipped=state.skipped + missed,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return after.constrain(), Metrics(loss, norm, rate, finite)


def loss_and_gradients(
    trained: Trained,
    batch: Batch,
    recipe: Recipe,
    step: Int[Array, ""],
    frozen: GPTNeoX | None = None,
) -> tuple[Float32[Array, ""], Trained]:
    """The weighted mean loss, and its gradients in float32.

    A batch gives the same in parts as in one, since the sum of each part is divided by the weight
    of the whole batch.
    """
    weight = batch.targets()[1].sum().astype(jnp.float32)
    key = jax.random.fold_in(jax.random.key(recipe.seed), step)

    def gradients_of(part: Batch, index: Int[Array, ""]) -> tuple[Float32[Array, ""], Trained]:
        def mean(trained: Trained) -> Float32[Array, ""]:
            own_key = jax.random.fold_in(key, index)
            return summed_loss(trained, part, recipe, own_key, frozen) / weight

        # With respect to the parameters in the dtype of the computation: the gradients of all
        # layers are held at once, and float32 would take twice the bytes and be no more exact.
        loss, gradients = jax.value_and_grad(mean)(cast(trained, recipe.compute_dtype))
        return loss, _spread(cast(gradients, "float32"))

    if recipe.accumulate == 1:
        return gradients_of(batch, jnp.int32(0))

    def add(total: tuple[Float32[Array, ""], Trained], part: tuple[Batch, Int[Array, ""]]):
        return jax.tree.map(jnp.add, total, gradients_of(*part)), None

    zeros = _spread(jax.tree.map(jnp.zeros_like, trained))
    parts = (_split(batch, recipe.accumulate, trained.mesh), jnp.arange(recipe.accumulate))
    return lax.scan(add, (jnp.float32(0), zeros), parts)[0]


def summed_loss(
    trained: Trained,
    batch: Batch,
    recipe: Recipe,
    key: jax.Array | None = None,
    frozen: GPTNeoX | None = None,
) -> Float32[Array, ""]:
    """The sum over the batch of weight × cross-entropy of the next token.

    With a key, as in training, the config's dropout is applied; without one there is none.
    """
    # Before anything is gathered, so that half the bytes travel.
    model, prompt = join(*cast((trained, frozen), recipe.compute_dtype))
    lora = max((linear.dropout for linear in adapted(model)), default=0.0)
    dropout = None if key is None else Dropout.of(model.config, key, lora)
    hidden = hidden_states(model, batch, recipe, dropout, prompt)
    head = gather(model.head, model.mesh)
    targets, weights = batch.targets()
    table = head.weight if isinstance(head, Embedding) else head.dense().astype(hidden.dtype)
    return cross_entropy(hidden, table, targets, weights, recipe.loss_chunk, model.mesh)


def _split(batch: Batch, parts: int, mesh: Mesh | None) -> Batch:
    """The parts as a leading axis; each has an equal share of every device's rows."""

    def split(x: Array) -> Array:
        rows, length = x.shape
        x = x.reshape(rows // parts, parts, length).swapaxes(0, 1)
        return constrain(x, mesh, None, "rows", None)

    return jax.tree.map(split, batch)


def _spread(gradients: Trained) -> Trained:
    mesh = gradients.mesh
    if mesh is None:
        return gradients
    return lax.with_sharding_constraint(
        gradients, parameter_shardings(gradients, mesh, TRAINING_RULES)
    )
