"""What changes the logits of tokens without forbidding them: biases and penalties.

The tokens that a penalty is for are few beside the vocabulary, so their logits alone are read
and written: 200 of each row rather than 50,000.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neox_eqx.generation.history import History
from neox_eqx.generation.options.values import LARGEST
from neox_eqx.generation.words import Words


class SequenceBias(eqx.Module):
    """Adds a bias to the token that completes a word; one of a single token is always biased."""

    words: Words
    bias: Float[Array, "R W"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        bias = jnp.where(self.words.are_begun(history), self.bias, 0)

        def spread(ids: Int[Array, " W"], bias: Float[Array, " W"]) -> Float[Array, " V"]:
            return jnp.zeros_like(logits[0]).at[ids].add(bias, mode="drop")

        return logits + jax.vmap(spread)(self.words.last, bias)


class RepetitionPenalty(eqx.Module):
    """Divides positive logits of the tokens of the text, and multiplies the others.

    The prompt counts too, and each token once. Keskar et al. 2019, arXiv:1909.05858.
    """

    penalty: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        def one(
            logits: Float[Array, " V"], ids: Int[Array, " U"], penalty: Float[Array, ""]
        ) -> Float[Array, " V"]:
            own = logits.at[ids].get(mode="clip")
            own = jnp.where(own < 0, own * penalty, own / penalty)
            return logits.at[ids].set(own, mode="drop")

        return jax.vmap(one)(logits, history.all(), self.penalty)


class PresencePenalty(eqx.Module):
    """Subtracts `penalty` once from the tokens that were generated; the prompt does not count."""

    penalty: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        def one(
            logits: Float[Array, " V"], ids: Int[Array, " N"], penalty: Float[Array, ""]
        ) -> Float[Array, " V"]:
            own = logits.at[ids].get(mode="clip") - penalty
            return logits.at[ids].set(own, mode="drop")

        return jax.vmap(one)(logits, history.new(), self.penalty)


class FrequencyPenalty(eqx.Module):
    """Subtracts `penalty` times how often the token was generated; the prompt does not count."""

    penalty: Float[Array, " R"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        def count(ids: Int[Array, " N"]) -> Float[Array, " V"]:
            return jnp.zeros_like(logits[0]).at[ids].add(1, mode="drop")

        return logits - self.penalty[:, None] * jax.vmap(count)(history.new())


class ExponentialDecayLengthPenalty(eqx.Module):
    """Raises the logits of the EOS ids with each token that is generated after the first `start`.

    What is added is |logit| * (factor**k - 1), with k the number of tokens after these, and
    stays a number that float32 can add and divide. A token that is forbidden stays so.
    """

    start: Int[Array, " R"]
    log_factor: Float[Array, " R"]
    """Near 0 it says in float32 what a factor near 1 could not; at 0 nothing is added."""
    eos: Int[Array, " E"]

    def __call__(self, logits: Float[Array, "R V"], history: History) -> Float[Array, "R V"]:
        late = jnp.maximum(history.lengths - self.start, 0).astype(jnp.float32)
        growth = jnp.minimum(jnp.expm1(late * self.log_factor), LARGEST)[:, None]
        own = logits[:, self.eos]
        raised = jnp.minimum(own + jnp.abs(own) * growth, LARGEST)
        return logits.at[:, self.eos].set(jnp.where(jnp.isfinite(own), raised, own))
