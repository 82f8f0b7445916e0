"""AdamW with warm-up, cosine decay and clipping."""

from typing import Any

import jax
import optax

from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.recipe import Recipe


def schedule(recipe: Recipe) -> optax.Schedule:
    """The learning rate of each update: linear from 0 to the peak, then along a cosine."""
    return optax.warmup_cosine_decay_schedule(
        0.0 if recipe.warmup_steps else recipe.learning_rate,
        recipe.learning_rate,
        recipe.warmup_steps,
        recipe.steps,
        recipe.final_learning_rate,
    )


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(
            schedule(recipe),
            recipe.b1,
            recipe.b2,
            recipe.eps,
            weight_decay=recipe.weight_decay,
            mask=decaying,
        ),
    )


def decaying(model: GPTNeoX) -> GPTNeoX:
    """True in place of each matrix, and False of each bias and norm."""

    def of_layer(layer: Any) -> Any:
        def decays(path: tuple[Any, ...], _: jax.Array) -> bool:
            return path[-1].name == "weight" and len(layer.axes) == 2

        return jax.tree_util.tree_map_with_path(decays, layer)

    return jax.tree.map(of_layer, model, is_leaf=lambda node: hasattr(node, "axes"))
