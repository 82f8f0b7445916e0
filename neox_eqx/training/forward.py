"""The model's forward pass as training needs it: no keys and values are kept."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.model.block import Block
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.flash import Flash
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.rotary import Rotary
from neox_eqx.sharding.rules import constrain
from neox_eqx.training.batch import Batch
from neox_eqx.training.gather import gather
from neox_eqx.training.recipe import Recipe


def hidden_states(
    model: GPTNeoX, batch: Batch, recipe: Recipe, dropout: Dropout | None = None
) -> Float[Array, "B T D"]:
    """The final hidden states, in the recipe's dtype; at padding they mean nothing."""
    mesh, dtype = model.mesh, recipe.compute_dtype
    positions = batch.positions()
    rotary = Rotary.at(model.config, positions, positions.max(-1) + 1)
    table = gather(model.embed_in, dtype, mesh).weight
    x = jnp.where(batch.documents[..., None] > 0, _look_up(table, batch.tokens), 0)
    x = constrain(x, mesh, "rows", None, None)
    if dropout is not None:
        x = dropout.drop_hidden(x, 0)
    x = _run_layers(model, x, rotary, _mask(model, batch), recipe, dropout)
    return gather(model.final_layer_norm, dtype, mesh)(x)


def _mask(model: GPTNeoX, batch: Batch) -> Bool[Array, "B T T"] | Flash:
    """The kernel knows no dropout."""
    length = batch.tokens.shape[1]
    if model.config.attention_dropout == 0 and Flash.fits(length, model.mesh):
        return Flash(batch.documents, model.mesh)
    return batch.mask()


def _run_layers(
    model: GPTNeoX,
    x: Float[Array, "B T D"],
    rotary: Rotary,
    mask: Bool[Array, "B T T"] | Flash,
    recipe: Recipe,
    dropout: Dropout | None,
) -> Float[Array, "B T D"]:
    """Each layer gathers its parameters for itself, and again when it is computed again."""

    def run(x: Float[Array, "B T D"], block: Block, index: int | Int[Array, ""]):
        block = gather(block, recipe.compute_dtype, model.mesh)
        own = None if dropout is None else dropout.layer(index)
        x, _ = block(x, rotary, (), mask, own)
        return constrain(x, model.mesh, "rows", None, None)

    if recipe.remat:
        run = jax.checkpoint(run)
    if isinstance(model.layers, tuple):
        for index, block in enumerate(model.layers):
            x = run(x, block, index)
        return x
    indices = jnp.arange(model.config.num_hidden_layers)
    return lax.scan(lambda x, layer: (run(x, *layer), None), x, (model.layers, indices))[0]


@jax.custom_vjp
def _look_up(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    return table[tokens]


def _look_up_forward(
    table: Float[Array, "V D"], tokens: Int[Array, "B T"]
) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "V D"], Int[Array, "B T"]]]:
    return table[tokens], (table, tokens)


def _look_up_backward(
    kept: tuple[Float[Array, "V D"], Int[Array, "B T"]], gradient: Float[Array, "B T D"]
) -> tuple[Float[Array, "V D"], None]:
    """Sums in float32: a frequent token is added up thousands of times."""
    table, tokens = kept
    total = jnp.zeros(table.shape, jnp.float32).at[tokens].add(gradient.astype(jnp.float32))
    return total.astype(table.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_backward)
