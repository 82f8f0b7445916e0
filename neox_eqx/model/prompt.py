"""What is learnt to stand before every text: embeddings, or keys and values of each layer.

Both become one thing, a segment of a single row that all rows of a batch attend to.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from neox_eqx.model.keys_values import KV
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.rules import Placed


class SoftPrompt(Placed):
    """Prompt tuning (Lester et al. 2021, arXiv:2104.08691): embeddings of P positions."""

    embeddings: Float[Array, "P D"]
    mesh: Mesh | None = eqx.field(static=True, default=None)
    """Where it is trained, None on a single device."""
    axes: tuple[None, None] = eqx.field(static=True, default=(None, None))

    @classmethod
    def of_tokens(cls, model: GPTNeoX, tokens: Int[Array, " P"]) -> "SoftPrompt":
        """The prompt that has the effect of these tokens."""
        return cls(model.embed_in(tokens[None])[0].astype(model.dtype), model.mesh)

    def segment(self, model: GPTNeoX) -> Segment:
        """Keys and values of the prompt in each layer."""
        valid = jnp.ones((1, len(self.embeddings)), bool)
        return model.read(self.embeddings[None].astype(model.dtype), valid)[1]


class Prefix(Placed):
    """Prefix tuning (Li and Liang 2021, arXiv:2101.00190): keys and values of P positions.

    The keys are rotated already.
    """

    key: Float[Array, "L H P K"]
    value: Float[Array, "L H P K"]
    mesh: Mesh | None = eqx.field(static=True, default=None)
    axes: tuple[str, None, None] = eqx.field(static=True, default=("heads", None, None))

    @classmethod
    def of_tokens(cls, model: GPTNeoX, tokens: Int[Array, " P"]) -> "Prefix":
        """The prefix that has the effect of these tokens."""
        apart = dataclasses.replace(model, heads_together=1, cache=KV)
        kv: Any = apart(tokens[None], jnp.ones((1, len(tokens)), bool))[1].kv
        if isinstance(kv, tuple):
            kv = jax.tree.map(lambda *layers: jnp.stack(layers), *kv)
        heads = slice(model.config.num_attention_heads)
        return cls(kv.key[:, 0, heads], kv.value[:, 0, heads], model.mesh)

    def segment(self, model: GPTNeoX) -> Segment:
        """The prefix in the form of the model's own segments."""
        added = model.num_heads - self.key.shape[1]  # heads that do nothing, see GPTNeoX.init

        def of_model(x: Float[Array, "L H P K"]) -> Float[Array, "L 1 X P K"]:
            return jnp.pad(x, ((0, 0), (0, added), (0, 0), (0, 0)))[:, None].astype(model.dtype)

        apart = KV(of_model(self.key), of_model(self.value))
        kv: Any = jax.vmap(model.kept)(apart)
        if not model.stacked:
            depth = len(self.key)
            kv = tuple(jax.tree.map(lambda x, layer=layer: x[layer], kv) for layer in range(depth))
        return Segment(kv, jnp.ones((1, self.key.shape[2]), bool)).constrain(model.mesh)


Prompt = SoftPrompt | Prefix


@jax.jit
def read_prompt(prompt: Prompt, model: GPTNeoX) -> Segment:
    """The prompt as `model` attends to it."""
    return prompt.segment(model)
