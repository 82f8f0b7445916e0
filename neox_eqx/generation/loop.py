"""The one decoding loop: prefill, then a token for every row until all rows are done."""

from collections.abc import Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from neox_eqx.generation.lengths import generated_slots
from neox_eqx.generation.sampling import Sampler
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment


class Ending(eqx.Module):
    """When a row ends: at one of the `eos` ids, or after `limit` tokens."""

    eos: Int[Array, " E"]
    limit: Int[Array, " R"]

    def reached(self, token: Int[Array, " R"], count: Int[Array, ""]) -> Bool[Array, " R"]:
        return (token[:, None] == self.eos).any(-1) | (count >= self.limit)


class State(eqx.Module):
    """What decoding carries from token to token."""

    generated: Segment
    """Keys and values of the tokens so far, all but the newest: R rows, N slots."""
    tokens: Int[Array, "R N"]
    """The tokens so far; what stands after a row's end means nothing."""
    lengths: Int[Array, " R"]
    """Tokens so far in each row, its EOS included."""
    logprobs: Float[Array, " R"]
    """Sum of their log-probabilities under the model itself, in float32."""
    done: Bool[Array, " R"]
    count: Int[Array, ""]
    """Tokens so far in the rows that are not done."""

    def add(
        self, logits: Float[Array, "R V"], sampler: Sampler, ending: Ending, start: Int[Array, " R"]
    ) -> "State":
        """Chooses one token a row; `start` is the length of each row's prompt."""
        token = sampler.choose(logits, start + self.count)
        logprob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        logprob = logprob - jax.nn.logsumexp(logits, axis=-1)
        count = self.count + 1
        return State(
            generated=self.generated,
            tokens=lax.dynamic_update_slice_in_dim(self.tokens, token[:, None], self.count, 1),
            lengths=jnp.where(self.done, self.lengths, count),
            logprobs=self.logprobs + jnp.where(self.done, 0, logprob),
            done=self.done | ending.reached(token, count),
            count=count,
        )

    def going_on(self) -> Bool[Array, ""]:
        """Some row is not done, and no row has met a NaN, which only grows from then on."""
        return ~self.done.all() & ~jnp.isnan(self.logprobs).any()


@partial(jax.jit, static_argnames=("samples", "slots"))
def prefill(
    model: GPTNeoX,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    sampler: Sampler,
    ending: Ending,
    *,
    samples: int,
    slots: int,
) -> tuple[Segment, State]:
    """Reads the prompts, padded on the right, and chooses the first token of each row.

    The rows of a prompt's `samples` stand next to each other and share its segment. `slots`
    are made for generated tokens. Logits are computed for the last position of a prompt only.
    """
    hidden, prompt = model(tokens, valid)
    last = valid.sum(-1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    rows = len(tokens) * samples
    state = State(
        generated=Segment.empty(model.config, rows, slots, model.dtype, stacked=model.stacked),
        tokens=jnp.zeros((rows, slots), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        logprobs=jnp.zeros(rows, jnp.float32),
        done=jnp.zeros(rows, bool),
        count=jnp.int32(0),
    )
    logits = jnp.repeat(model.logits(hidden), samples, axis=0)
    return prompt, state.add(logits, sampler, ending, _starts(prompt, rows))


@partial(jax.jit, static_argnames="attend", donate_argnames="state")
def decode(
    model: GPTNeoX,
    prompt: Segment,
    state: State,
    sampler: Sampler,
    ending: Ending,
    until: Int[Array, ""],
    *,
    attend: int,
) -> State:
    """Goes on until every row is done or has `until` tokens, which may be `attend` + 1 at most.

    Only the first `attend` slots of the generated tokens are looked at, so that a buffer for a
    long text costs nothing while the text is short. The state's buffers are updated in place.
    """
    start = _starts(prompt, len(state.done))

    def step(state: State) -> State:
        newest = lax.dynamic_slice_in_dim(state.tokens, state.count - 1, 1, axis=1)
        past = (prompt, state.generated.first(attend))
        hidden, new = model(newest, jnp.ones(newest.shape, bool), past)
        generated = state.generated.write(new, state.count - 1)
        state = eqx.tree_at(lambda state: state.generated, state, generated)
        return state.add(model.logits(hidden[:, 0]), sampler, ending, start)

    return lax.while_loop(lambda state: (state.count < until) & state.going_on(), step, state)


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

    The arrays of a yielded state are gone once the next one is asked for.
    """
    yield state
    slots = state.tokens.shape[1]
    count = int(state.count)
    while count < slots and bool(state.going_on()):
        attend = min(generated_slots(count), slots)
        until = attend + 1 if stride is None else min(count + stride, attend + 1)
        state = decode(
            model, prompt, state, sampler, ending, jnp.int32(min(until, slots)), attend=attend
        )
        yield state
        count = int(state.count)


def _starts(prompt: Segment, rows: int) -> Int[Array, " R"]:
    return jnp.repeat(prompt.valid.sum(-1), rows // len(prompt.valid), axis=0)
