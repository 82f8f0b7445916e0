"""The whole model: tokens and their past in, hidden states and logits out."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.block import Block
from neox_eqx.model.flash import Flash
from neox_eqx.model.layers import Embedding, LayerNorm, Linear, project
from neox_eqx.model.rotary import Rotary
from neox_eqx.model.segment import KV, Segment
from neox_eqx.sharding.rules import LAYOUTS, constrain


class GPTNeoX(eqx.Module):
    """Parameters under Hugging Face's names and in its shapes.

    `layers` is a tuple of Blocks, which unrolls (fastest on a CPU), or one Block whose arrays
    have a leading layer axis, which scans (compiles in seconds for any depth). `embed_out` is
    None where the head is tied to the embedding. `mesh` is where the parameters lie, None on a
    single device, and `layout` how, one of `LAYOUTS`. `heads_together` is the form of the keys
    and values that are returned, see KV.

    Examples:
        >>> config = GPTNeoXConfig(64, 32, 2, 4, 128)
        >>> model = GPTNeoX.init(config, key=jax.random.key(0))
        >>> tokens = jnp.array([[5, 6, 7]])
        >>> hidden, segment = model(tokens, jnp.ones(tokens.shape, bool))
        >>> model.logits(hidden).shape
        (1, 3, 64)
    """

    embed_in: Embedding
    layers: tuple[Block, ...] | Block
    final_layer_norm: LayerNorm
    embed_out: Linear | None
    config: GPTNeoXConfig = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    layout: str = eqx.field(static=True, default="1d")
    heads_together: int = eqx.field(static=True, default=1)

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
        """Random parameters; `stacked` chooses the form of `layers`.

        More `heads` than the config has are for `load`, which fills them with zeros.
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
        )

    @property
    def dtype(self) -> jnp.dtype:
        return self.embed_in.weight.dtype

    @property
    def stacked(self) -> bool:
        return not isinstance(self.layers, tuple)

    @property
    def is_quantized(self) -> bool:
        return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(self))

    @property
    def num_heads(self) -> int:
        """Those that compute: the config's, and what was added so that they divide over a mesh."""
        block = self.layers if not isinstance(self.layers, tuple) else self.layers[0]
        return block.attention.num_heads

    @property
    def head(self) -> Embedding | Linear:
        return self.embed_in if self.embed_out is None else self.embed_out

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Sequence[Segment] = (),
    ) -> tuple[Float[Array, "B T D"], Segment]:
        """The final hidden states of `tokens`, and the segment to attend to them later.

        A token's position is the number of valid tokens before it in its row, so padding may
        stand anywhere. `valid` is False at padding, whose hidden states mean nothing.

        Raises:
            InputError: `tokens` are not of two dimensions, or `valid` has another shape.
        """
        _check("tokens", tokens, "rows, length", valid)
        return self.read(self.embed_in(tokens), valid, past)

    def read(
        self,
        embeddings: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        past: Sequence[Segment] = (),
    ) -> tuple[Float[Array, "B T D"], Segment]:
        """As a call, of embeddings that need not be those of tokens."""
        _check("embeddings", embeddings, "rows, length, hidden size", valid)
        positions = _positions(valid, past)
        mask: Bool[Array, "B T U"] | Flash
        if not past and Flash.fits(valid.shape[1], self.mesh):
            mask = Flash(valid.astype(jnp.int32), self.mesh)
        else:
            mask = _mask(valid, past)
        longest = jnp.where(valid, positions, 0).max(-1) + 1
        rotary = Rotary.at(self.config, positions, longest)
        # Zero at padding: whatever stood there, NaN included, is multiplied by attention's zeros.
        x = jnp.where(valid[..., None], embeddings, 0)
        x = self.place(x, "batch", None, "embed")
        x, kv = self._run_layers(x, rotary, past, mask)
        x = self.place(x, "batch", None, "embed")
        return self.final_layer_norm(x), Segment(kv, valid).constrain(self.mesh)

    def _run_layers(
        self,
        x: Float[Array, "B T D"],
        rotary: Rotary,
        past: Sequence[Segment],
        mask: Bool[Array, "B T U"] | Flash,
    ) -> tuple[Float[Array, "B T D"], KV | tuple[KV, ...]]:
        """The layers read the past and never write it: what is new is returned.

        In a scan that keeps the caches from being copied, which writing inside it would force.
        """
        if isinstance(self.layers, tuple):
            new = []
            for index, block in enumerate(self.layers):
                own = tuple(segment.layer(index) for segment in past)
                x, kv = block(x, rotary, own, mask, place=self.place)
                new.append(kv.side_by_side(self.heads_together))
            return x, tuple(new)

        def body(
            x: Float[Array, "B T D"], layer: tuple[Block, tuple[KV, ...]]
        ) -> tuple[Float[Array, "B T D"], KV]:
            block, layer_past = layer
            x, kv = block(x, rotary, layer_past, mask, place=self.place)
            return x, kv.side_by_side(self.heads_together)

        past_kv: Any = tuple(segment.kv for segment in past)  # each one KV, as the layers are
        return lax.scan(body, x, (self.layers, past_kv))

    def empty_segment(self, rows: int, slots: int, *, readers: int | None = None) -> Segment:
        """Slots that hold nothing yet; `readers` rows of a batch share them, or each its own."""
        size = self.heads_together * self.config.head_dim
        shape = (rows, self.num_heads // self.heads_together, slots, size)
        layers = self.config.num_hidden_layers
        readers = rows if readers is None else readers
        return Segment.empty(layers, shape, self.dtype, readers=readers, stacked=self.stacked)

    def place(self, x: Float[Array, "*X"], *axes: str | None) -> Float[Array, "*X"]:
        """`x` where the model's layout has these axes."""
        return constrain(x, self.mesh, *axes, rules=LAYOUTS[self.layout])

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Scores of the vocabulary in float32. Apart from the layers: most positions need none."""
        if self.embed_out is None:
            return project(hidden, self.embed_in.weight).astype(jnp.float32)
        return self.embed_out.product(hidden).astype(jnp.float32)

    def quantized(self) -> "GPTNeoX":
        """The same with the weights of its Linears in int8.

        Embedding, norms and biases stay as they are, and so does a head that is the embedding.
        """

        def is_linear(node: Any) -> bool:
            return isinstance(node, Linear)

        return jax.tree.map(
            lambda node: node.quantized() if is_linear(node) else node, self, is_leaf=is_linear
        )


def _check(what: str, given: Any, axes: str, valid: Any) -> None:
    """Raises where arrays have not the shapes of a batch, which would fail far from here."""
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


def stack(blocks: Sequence[Block]) -> Block:
    """One Block whose arrays have a leading layer axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def _positions(valid: Bool[Array, "B T"], past: Sequence[Segment]) -> Int[Array, "B T"]:
    before = sum((seen.sum(-1) for seen in _seen(valid, past)), jnp.zeros(len(valid), jnp.int32))
    return before[:, None] + jnp.cumsum(valid, axis=-1) - 1


def _mask(valid: Bool[Array, "B T"], past: Sequence[Segment]) -> Bool[Array, "B T U"]:
    """What each token attends to: all that is valid in the past, and itself and those before."""
    rows, length = valid.shape
    causal = jnp.tril(jnp.ones((length, length), bool))
    seen = _seen(valid, past)
    masks = [jnp.broadcast_to(old[:, None], (rows, length, old.shape[-1])) for old in seen]
    return jnp.concatenate([*masks, valid[:, None] & causal], axis=-1)


def _seen(valid: Bool[Array, "B T"], past: Sequence[Segment]) -> list[Bool[Array, "B S"]]:
    return [jnp.repeat(segment.valid, len(valid) // len(segment.valid), axis=0) for segment in past]
