"""AdamW with warm-up, cosine decay and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float32, Int

from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.trained import Trained


def first_moments(recipe: Recipe, model: Trained) -> optax.ScaleByAdamState:
    """The optimiser's state before the first update."""
    return _adam(recipe).init(model)


def update(
    recipe: Recipe,
    gradients: Trained,
    norm: Float32[Array, ""],
    moments: optax.ScaleByAdamState,
    model: Trained,
) -> tuple[Trained, optax.ScaleByAdamState, Bool[Array, ""]]:
    """The parameters and the optimiser's state after one update, and whether there was one.

    `norm` is that of the gradients. If it is not finite, nothing changes: for each number the new
    or the old one is chosen, which fuses into the update; a branch would hold both whole.
    """
    finite = jnp.isfinite(norm)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(finite, new, old)

    scale = jnp.minimum(1, recipe.clip_norm / norm)
    clipped = jax.tree.map(lambda gradient: scale * gradient, gradients)
    # optax mixes dtypes, as in b1 ** count, which the caller may have forbidden.
    with jax.numpy_dtype_promotion("standard"):
        _, after = _adam(recipe).update(clipped, moments)
        # XLA would make the new moments a second time from the old ones to divide them below, and
        # copy the old ones for that: as much memory as both take.
        after = lax.optimization_barrier(jax.tree.map(choose, after, moments))
        mean = optax.tree.bias_correction(after.mu, recipe.b1, after.count)
        square = optax.tree.bias_correction(after.nu, recipe.b2, after.count)
    rate = learning_rate(recipe, moments.count)

    def step(old: Array, mean: Array, square: Array, decays: bool) -> Array:
        change = mean / (jnp.sqrt(square) + recipe.eps)
        return choose(old - rate * (change + recipe.weight_decay * old if decays else change), old)

    return jax.tree.map(step, model, mean, square, _decaying(model)), after, finite


def learning_rate(recipe: Recipe, updates: Int[Array, ""]) -> Float32[Array, ""]:
    """The rate of the next update, after so many updates."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(_schedule(recipe)(updates), jnp.float32)


def _schedule(recipe: Recipe) -> optax.Schedule:
    """Linear from 0 to the peak, then along a cosine."""
    return optax.warmup_cosine_decay_schedule(
        0.0 if recipe.warmup_steps else recipe.learning_rate,
        recipe.learning_rate,
        recipe.warmup_steps,
        recipe.steps,
        recipe.final_learning_rate,
    )


def _adam(recipe: Recipe) -> optax.GradientTransformation:
    return optax.scale_by_adam(recipe.b1, recipe.b2, recipe.eps)


def _decaying(model: Trained) -> Trained:
    """True for each matrix, LoRA's too, and False for each bias, norm and prompt."""

    def of_layer(layer: Any) -> Any:
        def decays(path: tuple[Any, ...], _: jax.Array) -> bool:
            return path[-1].name == "weight" and len(layer.axes) == 2

        return jax.tree_util.tree_map_with_path(decays, layer)

    return jax.tree.map(of_layer, model, is_leaf=lambda node: hasattr(node, "axes"))
