"""The one decoding loop: prefill, then a token for every row until all rows are done."""

from collections.abc import Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.history import History, align_right
from neox_eqx.generation.sampling import Sampler
from neox_eqx.generation.stopping import Ending
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import constrain

FIRST_SLOTS = 64


class State(eqx.Module):
    """What decoding carries from token to token."""

    generated: Segment
    """Keys and values of the tokens so far, all but the newest: R rows, N slots."""
    prompt_tokens: Int[Array, "B T"]
    """The prompts' ids, aligned to the right: `tokens` go on where they end."""
    tokens: Int[Array, "R N"]
    """The tokens so far; what stands after a row's end means nothing."""
    lengths: Int[Array, " R"]
    """Tokens so far in each row, its EOS included."""
    logprobs: Float[Array, " R"]
    """Sum of their log-probabilities under the model itself, in float32."""
    finish: Int[Array, " R"]
    """Why the row has ended, as `stopping.REASONS` counts them; 0 while it goes on."""
    count: Int[Array, ""]
    """Tokens so far in the rows that are not done."""

    @property
    def done(self) -> Bool[Array, " R"]:
        return self.finish > 0

    def add(
        self, logits: Float[Array, "R V"], sampler: Sampler, ending: Ending, start: Int[Array, " R"]
    ) -> "State":
        """Chooses one token a row; `start` is the length of each row's prompt."""
        history = History(self.prompt_tokens, self.tokens, start, self.count)
        token = sampler.choose(logits, history)
        logprob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        logprob = logprob - jax.nn.logsumexp(logits, axis=-1)
        count = self.count + 1
        tokens = lax.dynamic_update_slice_in_dim(self.tokens, token[:, None], self.count, 1)
        reason = ending.reason(History(self.prompt_tokens, tokens, start, count))
        return State(
            generated=self.generated,
            prompt_tokens=self.prompt_tokens,
            tokens=tokens,
            lengths=jnp.where(self.done, self.lengths, count),
            logprobs=self.logprobs + jnp.where(self.done, 0, logprob),
            finish=jnp.where(self.done, self.finish, reason),
            count=count,
        )

    def constrain(self, mesh: Mesh | None) -> "State":
        """The keys and values where `mesh` has them, and all else on every device."""

        def place(x: Segment | jax.Array) -> Segment | jax.Array:
            return x.constrain(mesh) if isinstance(x, Segment) else constrain(x, mesh)

        return jax.tree.map(place, self, is_leaf=lambda x: isinstance(x, Segment))

    def going_on(self) -> Bool[Array, ""]:
        """Some row is not done, and no row has met a NaN, which only grows from then on."""
        return ~self.done.all() & ~jnp.isnan(self.logprobs).any()


@partial(jax.jit, static_argnames="samples")
def prefill(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    sampler: Sampler,
    ending: Ending,
    *,
    samples: int,
) -> tuple[Segment, State]:
    """Reads the prompts, padded on the right, and chooses the first token of each row.

    The rows of a prompt's `samples` stand next to each other and share its segment. Logits are
    computed for the last position of a prompt only.
    """
    hidden, prompt = model(tokens, valid)
    last = valid.sum(-1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    rows = len(tokens) * samples
    state = State(
        generated=model.empty_segment(rows, FIRST_SLOTS),
        prompt_tokens=align_right(tokens, valid),
        tokens=jnp.zeros((rows, FIRST_SLOTS), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        logprobs=jnp.zeros(rows, jnp.float32),
        finish=jnp.zeros(rows, jnp.int32),
        count=jnp.int32(0),
    )
    logits = jnp.repeat(model.logits(hidden), samples, axis=0)
    state = state.add(logits, sampler, ending, _starts(prompt, rows))
    return prompt, state.constrain(model.mesh)


@partial(jax.jit, donate_argnames="state")
def decode(
    model: GPTNeoX,
    prompt: Segment,
    state: State,
    sampler: Sampler,
    ending: Ending,
    until: Int[Array, ""],
) -> State:
    """Goes on until every row is done or has `until` tokens, which the slots must have room for.

    The state's buffers are updated in place.
    """
    start = _starts(prompt, len(state.done))

    def step(state: State) -> State:
        newest = lax.dynamic_slice_in_dim(state.tokens, state.count - 1, 1, axis=1)
        past = (prompt, state.generated)
        hidden, new = model(newest, jnp.ones(newest.shape, bool), past)
        slot = state.count - 1
        state = state.add(model.logits(hidden[:, 0]), sampler, ending, start)
        # The slot waits for the chosen tokens, which are never below 0: once nothing reads the
        # old buffer any more, XLA writes in place, where it would otherwise copy all of it.
        slot = slot + jnp.minimum(state.tokens.min(), 0)
        generated = state.generated.write(new, slot)
        return eqx.tree_at(lambda state: state.generated, state, generated)

    state = lax.while_loop(lambda state: (state.count < until) & state.going_on(), step, state)
    return state.constrain(model.mesh)


@jax.jit
def double_slots(state: State) -> State:
    """Makes room for as many tokens again."""
    slots = state.tokens.shape[1]
    return eqx.tree_at(
        lambda state: (state.generated, state.tokens),
        state,
        (state.generated.pad(slots), jnp.pad(state.tokens, ((0, 0), (0, slots)))),
    )


def decode_all(
    model: GPTNeoX,
    prompt: Segment,
    state: State,
    sampler: Sampler,
    ending: Ending,
    *,
    stride: int | None = None,
) -> Iterator[State]:
    """Yields the state after every `stride` tokens, or as seldom as the slots allow.

    The slots double when they are full, so a long limit costs nothing while the text is short:
    every step reads all of them. The arrays of a yielded state are gone once the next is asked
    for.
    """
    yield state
    while bool(state.going_on()):
        count, slots = int(state.count), state.tokens.shape[1]
        if count == slots:
            grown = double_slots(state)
            for array in jax.tree.leaves(state.generated.kv):
                array.delete()  # whoever holds the state would keep them beside the larger ones
            state = grown
            slots *= 2
        until = slots if stride is None else min(count + stride, slots)
        state = decode(model, prompt, state, sampler, ending, jnp.int32(until))
        yield state


def _starts(prompt: Segment, rows: int) -> Int[Array, " R"]:
    return jnp.repeat(prompt.valid.sum(-1), rows // len(prompt.valid), axis=0)
