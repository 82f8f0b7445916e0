"""What EleutherAI's checkpoints call a parameter, and what each rank holds of it.

Their model is a sequence of numbered modules, of which some have no parameters: 0 is the
embedding, 1 nothing, 2 to L + 1 the layers, L + 2 nothing, L + 3 the final norm, and L + 4 the
head where it is not the embedding.
"""

import dataclasses
import re
from typing import Literal

from neox_eqx.checkpoint.names import EMBEDDING, HEAD

FIRST_LAYER = 2
"""The number of the module that is the first layer."""

Spread = Literal["rows", "columns", "copies", "shares"]
"""How the ranks of tensor parallelism hold a tensor.

By its rows or its columns, in the order of the ranks, or each a copy. `shares` are the biases after
a split by columns: with parallel residuals they are summands, otherwise copies.
"""


@dataclasses.dataclass(frozen=True)
class NeoxParameter:
    """One parameter: its Hugging Face name, and where EleutherAI's checkpoints have it.

    `names` are those within module `number`: today's first, then those of older versions and of
    Transformer Engine.
    """

    name: str
    number: int
    spread: Spread
    names: tuple[str, ...]

    @property
    def legacy_name(self) -> str:
        """The name in GPT-NeoX 2.0 and before, which is more often Hugging Face's."""
        as_here = (name for name in self.names if self.name.endswith(f".{name}"))
        return next(as_here, self.names[0])


def neox_parameters(num_layers: int) -> list[NeoxParameter]:
    """All parameters, in the order in which transformers has them."""
    layers = (
        NeoxParameter(
            f"gpt_neox.layers.{layer}.{module}.{kind}", FIRST_LAYER + layer, spread, names
        )
        for layer in range(num_layers)
        for module, kind, spread, names in _IN_A_LAYER
    )
    norm, number = "gpt_neox.final_layer_norm", num_layers + 3
    return [
        NeoxParameter(EMBEDDING, 0, "rows", ("word_embeddings.weight",)),
        *layers,
        NeoxParameter(f"{norm}.weight", number, "copies", ("norm.weight", "norm.norm.weight")),
        NeoxParameter(f"{norm}.bias", number, "copies", ("norm.bias", "norm.norm.bias")),
        NeoxParameter(HEAD, num_layers + 4, "rows", ("final_linear.weight",)),
    ]


def is_dropped(name: str) -> bool:
    """Whether a tensor is no parameter: it follows from the config, or is of training alone."""
    return re.fullmatch(_DROPPED, name) is not None


_DROPPED = r".*(rotary_emb\.inv_freq|_extra_state)|attention\.(bias|masked_bias)"

# Hugging Face's name of a module, how the ranks hold its weight and its bias, and how the names of
# these two begin in EleutherAI's files.
_MODULES: tuple[tuple[str, Spread, Spread, tuple[str, ...]], ...] = (
    (
        *("input_layernorm", "copies", "copies"),
        ("input_layernorm.", "input_layernorm.norm."),
    ),
    (
        *("post_attention_layernorm", "copies", "copies"),
        ("post_attention_layernorm.", "post_attention_layernorm.norm.", "mlp.layer_norm_"),
    ),
    (
        *("attention.query_key_value", "rows", "rows"),
        ("attention.query_key_value.", "attention.qkv."),
    ),
    (
        *("attention.dense", "columns", "shares"),
        ("attention.dense.", "attention.proj."),
    ),
    (
        *("mlp.dense_h_to_4h", "rows", "rows"),
        ("mlp.linear1.", "mlp.dense_h_to_4h.", "mlp.fc1_"),
    ),
    (
        *("mlp.dense_4h_to_h", "columns", "shares"),
        ("mlp.linear2.", "mlp.dense_4h_to_h.", "mlp.fc2_"),
    ),
)

_IN_A_LAYER = tuple(
    (module, kind, spread, tuple(prefix + kind for prefix in prefixes))
    for module, of_weight, of_bias, prefixes in _MODULES
    for kind, spread in (("weight", of_weight), ("bias", of_bias))
)
