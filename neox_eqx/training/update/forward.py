"""The model's forward pass as training needs it: no keys and values are kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neox_eqx.model.adapt import dropping
from neox_eqx.model.block import Block
from neox_eqx.model.context import Context
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prompt
from neox_eqx.model.rotary import Rotary
from neox_eqx.model.stack import run_layers
from neox_eqx.model.visible import Visible
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.gather import gather
from neox_eqx.training.update.recipe import Recipe


def hidden_states(
    model: GPTNeoX,
    batch: Batch,
    recipe: Recipe,
    dropout: Dropout | None = None,
    prompt: Prompt | None = None,
) -> Float[Array, "B T D"]:
    """The final hidden states, in the model's dtype; at padding they mean nothing.

    The prompt stands before each document. Nothing of it is dropped out while it is read.
    """
    mesh = model.mesh
    past = None if prompt is None else prompt.segment(model)
    positions = batch.positions() + (0 if past is None else past.slots)
    rotary = Rotary.at(model.config, positions, positions.max(-1) + 1)
    table = gather(model.embed_in, mesh).weight
    x = jnp.where(batch.documents[..., None] > 0, _look_up(table, batch.tokens), 0)
    whole = () if past is None else (jnp.ones((len(x), past.slots), bool),)
    visible = Visible(batch.documents, whole, packed=True)
    context = model.context(rotary, visible, dropout)
    x = context.place(x, "batch", None, "embed")
    if dropout is not None:
        x = dropout.drop_hidden(x, 0)

    def prepare(block: Block, own: Context) -> Block:
        """Each layer gathers its parameters for itself, and again when it is computed again."""
        block = gather(block, mesh)
        return block if own.dropout is None else dropping(block, own.dropout.of_lora)

    x, _ = run_layers(
        model.layers,
        x,
        () if past is None else (past,),
        context,
        keep=lambda new: None,
        prepare=prepare,
        remat=recipe.remat,
    )
    return gather(model.final_layer_norm, mesh)(x)


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
