"""The whole model: tokens and their past in, hidden states and logits out."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.attending import attending
from neox_eqx.model.block import Block
from neox_eqx.model.context import Context
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.embedding import Embedding
from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.model.linear import Linear, project
from neox_eqx.model.norm import LayerNorm
from neox_eqx.model.rotary import Rotary
from neox_eqx.model.segment import Segment
from neox_eqx.model.stack import Layers, run_layers, stack
from neox_eqx.model.visible import Visible


class GPTNeoX(eqx.Module):
    """Parameters under Hugging Face's names and in its shapes.

    `layers` is a tuple of Blocks, whose loop is unrolled (fastest on a CPU), or one Block whose
    arrays have a leading layer axis, over which `lax.scan` runs (compiles in seconds for any
    depth). `embed_out` is None where the head is tied to the embedding. `mesh` is where the
    parameters lie, None on a single device, and `layout` how, one of `LAYOUTS`. `num_heads` counts
    the config's heads and those of zeros that were added so that all divide over a mesh. `cache`
    is the class that keeps keys and values, with `heads_together` heads in a group.

    Any part may be replaced by a module with the same call, which `eqx.tree_at` does:
    `eqx.tree_at(lambda m: m.layers[2].mlp, model, replacement)`. What replaces an attention
    returns a KV too, for `num_heads` heads; zeros will do.

    Examples:
        >>> config = GPTNeoXConfig(64, 32, 2, 4, 128)
        >>> model = GPTNeoX.init(config, key=jax.random.key(0))
        >>> tokens = jnp.array([[5, 6, 7]])
        >>> hidden, segment = model(tokens, jnp.ones(tokens.shape, bool))
        >>> model.logits(hidden).shape
        (1, 3, 64)
    """

    embed_in: Embedding
    layers: Layers
    final_layer_norm: LayerNorm
    embed_out: Linear | None
    config: GPTNeoXConfig = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    layout: str = eqx.field(static=True, default="1d")
    heads_together: int = eqx.field(static=True, default=1)
    cache: type[KeysValues] = eqx.field(static=True, default=KV)

    @classmethod
    def init(
        cls,
        config: GPTNeoXConfig,
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        stacked: bool = False,
        heads: int | None = None,
        key: PRNGKeyArray,
    ) -> "GPTNeoX":
        """Random parameters; `stacked` makes `layers` one Block with a layer axis.

        `heads` beyond the config's are for `load`, which fills them with zeros.
        """
        embed_key, head_key, layers_key = jax.random.split(key, 3)
        shape = (config.vocab_size, config.hidden_size)
        embed_in = config.initializer_range * jax.random.normal(embed_key, shape, dtype)
        keys = jax.random.split(layers_key, config.num_hidden_layers)
        blocks = tuple(Block.init(config, dtype=dtype, heads=heads, key=key) for key in keys)
        head = Linear.init(
            shape,
            ("vocab", "embed"),
            use_bias=False,
            scale=config.initializer_range,
            dtype=dtype,
            key=head_key,
        )
        return cls(
            Embedding(embed_in),
            stack(blocks) if stacked else blocks,
            LayerNorm.init(config.hidden_size, config.layer_norm_eps, dtype),
            None if config.tie_word_embeddings else head,
            config,
            heads or config.num_attention_heads,
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the computation, which is the norms'; matrices may be held in fewer bits."""
        return self.final_layer_norm.weight.dtype

    @property
    def stacked(self) -> bool:
        return not isinstance(self.layers, tuple)

    @property
    def head(self) -> Embedding | Linear:
        return self.embed_in if self.embed_out is None else self.embed_out

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Sequence[Segment] = (),
    ) -> tuple[Float[Array, "B T D"], Segment]:
        """Hidden states after the final norm, in the model's dtype; the segment of `tokens`.

        Later calls attend to the segment as part of their `past`. A token's position is the number
        of valid tokens before it, in the past and in its row, so padding may stand
        anywhere. `valid` is False at padding, whose hidden states mean nothing.

        Raises:
            InputError: `tokens` or `valid` is no array, `tokens` are not of two dimensions, or
                `valid` has another shape.
        """
        _check("tokens", tokens, "rows, length", valid)
        return self.read(self.embed_in(tokens).astype(self.dtype), valid, past)

    def read(
        self,
        embeddings: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        past: Sequence[Segment] = (),
    ) -> tuple[Float[Array, "B T D"], Segment]:
        """As a call, of embeddings that need not be those of tokens.

        Raises:
            InputError: as a call.
        """
        _check("embeddings", embeddings, "rows, length, hidden size", valid)
        x, context = self.begin(embeddings, valid, past)
        x, kv = run_layers(self.layers, x, past, context, keep=self.kept)
        return self.final_layer_norm(x), Segment(kv, valid).constrain(self.mesh)

    def begin(
        self,
        embeddings: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        past: Sequence[Segment] = (),
    ) -> tuple[Float[Array, "B T D"], Context]:
        """What enters the first layer, and what all layers are given beside it."""
        positions = _positions(valid, past)
        visible = Visible(valid.astype(jnp.int32), tuple(_seen(valid, past)))
        longest = jnp.where(valid, positions, 0).max(-1) + 1
        rotary = Rotary.at(self.config, positions, longest)
        context = self.context(rotary, visible)
        # Zero at padding: attention multiplies it by 0, and 0 times NaN is NaN.
        x = jnp.where(valid[..., None], embeddings, 0)
        return context.place(x, "batch", None, "embed"), context

    def context(self, rotary: Rotary, visible: Visible, dropout: Dropout | None = None) -> Context:
        """The Context of a pass, with this model's mesh and layout."""
        way = attending(
            visible,
            self.mesh,
            head_size=self.config.head_dim,
            dtype=self.dtype,
            drops=dropout is not None and dropout.attention > 0,
        )
        return Context(rotary, way, self.mesh, self.layout, dropout)

    def kept(self, new: KV) -> KeysValues:
        """Keys and values of new tokens as `cache` keeps them."""
        return self.cache.of(new.key, new.value, self.heads_together)

    @property
    def slot_bytes(self) -> int:
        """Bytes of the keys and values of one token of a row, in all layers."""
        key = jax.ShapeDtypeStruct((1, self.num_heads, 1, self.config.head_dim), self.dtype)
        kept = jax.eval_shape(lambda key: self.kept(KV(key, key)), key)
        arrays = jax.tree.leaves(kept)
        return self.config.num_hidden_layers * sum(x.size * x.dtype.itemsize for x in arrays)

    def empty_segment(self, rows: int, slots: int, *, readers: int | None = None) -> Segment:
        """A segment of empty slots in `rows` rows of keys and values.

        `readers` is the number of the batch's rows that attend to it, a multiple of `rows`; by
        default each has its own.
        """
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        like = jax.eval_shape(self, tokens, jax.ShapeDtypeStruct((1, 1), bool))[1]
        return like.emptied(rows, slots, readers=readers)

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits in float32, not normalised. Not part of a call, as most positions need none."""
        if self.embed_out is None:
            return project(hidden, self.embed_in.weight).astype(jnp.float32)
        return self.embed_out.product(hidden).astype(jnp.float32)


def _check(what: str, given: Any, axes: str, valid: Any) -> None:
    """Raises InputError unless the shapes are a batch's; others would fail far from here."""
    for name, array in ((what, given), ("valid", valid)):
        if not isinstance(array, jax.Array | np.ndarray):
            raise InputError(f"{name} must be an array, not of type {type(array).__name__}")
    if given.ndim != len(axes.split(", ")):
        raise InputError(
            f"{what} must have the shape ({axes}), not {given.shape}; a single text is a batch of "
            f"one, {what}[None]"
        )
    if valid.shape != given.shape[:2]:
        raise InputError(
            f"valid must have the shape of {what}, {given.shape[:2]}, not {valid.shape}"
        )


def _positions(valid: Bool[Array, "B T"], past: Sequence[Segment]) -> Int[Array, "B T"]:
    before = sum((seen.sum(-1) for seen in _seen(valid, past)), jnp.zeros(len(valid), jnp.int32))
    return before[:, None] + jnp.cumsum(valid, axis=-1) - 1


def _seen(valid: Bool[Array, "B T"], past: Sequence[Segment]) -> list[Bool[Array, "B S"]]:
    return [jnp.repeat(segment.valid, len(valid) // len(segment.valid), axis=0) for segment in past]
