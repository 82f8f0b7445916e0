"""What a run carries from step to step, and where it lies."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Int

from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.sharding.rules import TRAINING_RULES, parameter_shardings, sharding
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.optimizer import first_moments
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.trained import Trained


class TrainState(eqx.Module):
    """All that a checkpoint holds; with the recipe and the data it is enough to go on."""

    model: Trained
    """What is trained, in float32; None in place of each parameter that is frozen."""
    optimizer: optax.ScaleByAdamState
    step: Int[Array, ""]
    """Batches so far, those that were skipped included."""
    skipped: Int[Array, ""]
    """Batches whose loss or gradients were not finite, and which changed nothing."""
    skipped_in_a_row: Int[Array, ""]
    """How many batches were skipped since the last one that was not."""

    @classmethod
    def start(cls, model: Trained, recipe: Recipe) -> "TrainState":
        """The state before the first step, spread over the model's mesh.

        The parameters are copied, since a step consumes its state.
        """
        model = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), model)
        return jax.jit(_fresh, static_argnums=1, donate_argnums=0)(model, recipe)

    def constrain(self) -> "TrainState":
        """This state, with its arrays held by the compiler where training has them."""
        mesh = self.model.mesh
        return self if mesh is None else lax.with_sharding_constraint(self, state_shardings(self))


def _fresh(model: Trained, recipe: Recipe) -> TrainState:
    # Three arrays, not one three times: a step donates each buffer of its state by itself.
    counts = [jnp.zeros((), jnp.int32) for _ in range(3)]
    return TrainState(model, first_moments(recipe, model), *counts).constrain()


def state_shardings(state: TrainState) -> TrainState:
    """A NamedSharding in place of each array: the moments lie as their parameters do."""
    mesh = state.model.mesh
    assert mesh is not None
    everywhere = NamedSharding(mesh, PartitionSpec())
    parameters = parameter_shardings(state.model, mesh, TRAINING_RULES)

    def of(node: Any) -> Any:
        """The optimiser's state holds trees like the parameters', and single numbers."""
        return parameters if isinstance(node, Trained) else everywhere

    return jax.tree.map(of, state, is_leaf=lambda node: isinstance(node, Trained))


def abstract_state(model: Trained, recipe: Recipe) -> TrainState:
    """What `TrainState.start` returns, as shapes with shardings; takes a model or its shapes."""
    state = jax.eval_shape(lambda model: _fresh(model, recipe), model)
    if model.mesh is not None:
        return jax.tree.map(_placed, state, state_shardings(state))
    where = jax.tree.leaves(model)[0].sharding
    return jax.tree.map(lambda array: _placed(array, where), state)


def abstract_step(
    config: GPTNeoXConfig, mesh: Mesh, recipe: Recipe, rows: int, length: int
) -> tuple[TrainState, Batch]:
    """The arguments of `train_step` as shapes with shardings, to compile it without weights."""
    model = dataclasses.replace(
        model_shapes(config, jnp.dtype(jnp.float32), stacked=True), mesh=mesh
    )
    state = abstract_state(model, recipe)
    rows_apart = sharding(mesh, (rows, length), ("rows", None))
    numbers = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=rows_apart)
    weights = jax.ShapeDtypeStruct((rows, length), jnp.float32, sharding=rows_apart)
    return state, jax.eval_shape(Batch, numbers, numbers, weights)


def _placed(array: jax.ShapeDtypeStruct, where: Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where)
