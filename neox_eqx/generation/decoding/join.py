"""A request that joins a running batch, at a place whose rows are done."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Shaped

from neox_eqx.generation.decoding.rows import pad_rows
from neox_eqx.generation.decoding.state import State
from neox_eqx.generation.history import NOTHING
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment


@partial(jax.jit, donate_argnames=("prompt", "state"))
def join(
    model: GPTNeoX,
    prompt: Segment,
    state: State,
    new_prompt: Segment,
    new: State,
    place: Int[Array, ""],
) -> tuple[Segment, State]:
    """The batch's `prompt` and `state` with another request at `place`, counted in prompts.

    Their buffers are updated in place. `new_prompt` and `new` are what `read_prompts` returned for
    the request that joins. On a mesh, where several copies of it were read,
    the first is taken. `new_prompt` must not have more slots than `prompt`. The rows at the place
    must be done; a place without a request yet may hold any, with a limit of one token.

    To go on, make a strategy for the requests that are there now. With the same batch mates its
    arrays have the same shapes as before, so nothing compiles anew.
    """
    prompts = len(state.prompt_tokens)
    wider = new_prompt.pad(prompt.slots - new_prompt.slots)
    missing = state.prompt_tokens.shape[1] - new.prompt_tokens.shape[1]
    tokens = jnp.pad(new.prompt_tokens, ((0, 0), (missing, 0)), constant_values=NOTHING)
    rows, memory = pad_rows((new.rows, new.memory), state.rows.slots - new.rows.slots)

    def put(old: Shaped[Array, "..."], new: Shaped[Array, "..."], axis: int = 0) -> Array:
        """`old` with the rows of `new` at the place. No row leaves its device for it."""
        apart = old.reshape(*old.shape[:axis], prompts, -1, *old.shape[axis + 1 :])
        own = lax.slice_in_dim(new, 0, apart.shape[axis + 1], axis=axis)
        is_place = jnp.arange(prompts).reshape(-1, *[1] * (apart.ndim - axis - 1)) == place
        return jnp.where(is_place, jnp.expand_dims(own, axis), apart).reshape(old.shape)

    def put_segment(old: Segment, new: Segment) -> Segment:
        kv = jax.tree.map(lambda one, other: put(one, other, one.ndim - 4), old.kv, new.kv)
        return Segment(kv, put(old.valid, new.valid))

    # Zero, not only invalid: attention multiplies by its zeros, which would keep a NaN of the
    # row that was there.
    nothing = jax.tree.map(jnp.zeros_like, state.generated)
    joined = State(
        generated=put_segment(state.generated, nothing),
        prompt_tokens=put(state.prompt_tokens, tokens),
        rows=jax.tree.map(put, state.rows, rows),
        clock=state.clock,
        memory=jax.tree.map(put, state.memory, memory),
    )
    return put_segment(prompt, wider).constrain(model.mesh), joined.constrain(model.mesh)
