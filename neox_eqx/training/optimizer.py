"""AdamW with warm-up, cosine decay and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int

from neox_eqx.training.recipe import Recipe
from neox_eqx.training.trained import Trained


def first_moments(recipe: Recipe, model: Trained) -> optax.OptState:
    """The optimiser's state before the first update."""
    return _optimizer(recipe).init(model)


def update(
    recipe: Recipe, gradients: Trained, moments: optax.OptState, model: Trained
) -> tuple[Trained, optax.OptState]:
    """What is trained and the optimiser's state after one update."""
    # optax mixes dtypes, as in b1 ** count, which the caller may have forbidden.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = _optimizer(recipe).update(gradients, moments, model)
        return optax.apply_updates(model, updates), moments


def learning_rate(recipe: Recipe, updates: Int[Array, ""]) -> Float32[Array, ""]:
    """That of the update which follows so many."""
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


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(
            _schedule(recipe),
            recipe.b1,
            recipe.b2,
            recipe.eps,
            weight_decay=recipe.weight_decay,
            mask=_decaying,
        ),
    )


def _decaying(model: Trained) -> Trained:
    """True in place of each matrix, LoRA's too, and False of each bias, norm and prompt."""

    def of_layer(layer: Any) -> Any:
        def decays(path: tuple[Any, ...], _: jax.Array) -> bool:
            return path[-1].name == "weight" and len(layer.axes) == 2

        return jax.tree_util.tree_map_with_path(decays, layer)

    return jax.tree.map(of_layer, model, is_leaf=lambda node: hasattr(node, "axes"))
