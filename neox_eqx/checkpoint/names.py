"""The name that a parameter of the model has in a checkpoint.

Names follow from the model's own tree: `layers[3].attention.dense.weight` is stored as
`gpt_neox.layers.3.attention.dense.weight`. Only the head stands outside `gpt_neox`.
"""

import dataclasses
import re

import jax

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.linear import Linear
from neox_eqx.model.neox import GPTNeoX

HEAD = "embed_out.weight"
EMBEDDING = "gpt_neox.embed_in.weight"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One array of the model, and the tensors that hold it.

    `path` is where it stands in the model's tree, with dots. `names` is one name, or a name a
    layer where `array` has a leading layer axis. `shape` is that of one tensor.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    array: jax.Array | jax.ShapeDtypeStruct
    stacked: bool

    @property
    def nbytes(self) -> int:
        return self.array.size * self.array.dtype.itemsize


def parameters(model: GPTNeoX) -> list[Parameter]:
    """All parameters of a model, or of its shapes, in the order of its leaves.

    Each array of a weight in few bits is one, although a checkpoint has a single entry for them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return [_parameter(model, dotted(path), array) for path, array in leaves]


def linears(config: GPTNeoXConfig) -> dict[str, tuple[int, int]]:
    """The weights of the model's Linears, which are those that few bits are for, and their shapes.

    A head that is the embedding is not one of them.
    """
    of_one = dataclasses.replace(config, num_hidden_layers=1)
    shapes = jax.eval_shape(lambda: GPTNeoX.init(of_one, key=jax.random.key(0)))
    paths = jax.tree_util.tree_leaves_with_path(shapes, is_leaf=lambda x: isinstance(x, Linear))
    found = {
        f"{dotted(path)}.weight": (x.shape[0], x.shape[1])
        for path, x in paths
        if isinstance(x, Linear)
    }
    weights = {
        name.replace("layers.0", f"gpt_neox.layers.{layer}"): shape
        for layer in range(config.num_hidden_layers)
        for name, shape in found.items()
        if name != HEAD
    }
    return weights | ({HEAD: found[HEAD]} if HEAD in found else {})


def dotted(path: tuple) -> str:
    """A path in a tree as a name with dots: `layers.3.mlp.dense_h_to_4h.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def stored_name(name: str) -> str | None:
    """What this package calls a tensor of a checkpoint; None for a tensor to leave out.

    A base model's save has no `gpt_neox.` in front, newer versions of transformers may call the
    head `lm_head`, and older ones stored buffers that follow from the config.
    """
    if name in (HEAD, "lm_head.weight"):
        return HEAD
    if re.fullmatch(r"(layers\.\d+|embed_in|final_layer_norm)\..+", name):
        name = f"gpt_neox.{name}"
    return None if re.fullmatch(_BUFFERS, name) else name


_BUFFERS = r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"


def _parameter(model: GPTNeoX, path: str, array: jax.Array | jax.ShapeDtypeStruct) -> Parameter:
    if path.startswith("embed_out."):
        return Parameter(path, (path,), array.shape, array, stacked=False)
    if not (model.stacked and path.startswith("layers.")):
        return Parameter(path, (f"gpt_neox.{path}",), array.shape, array, stacked=False)
    within = path.removeprefix("layers.")
    layers = range(model.config.num_hidden_layers)
    names = tuple(f"gpt_neox.layers.{layer}.{within}" for layer in layers)
    return Parameter(path, names, array.shape[1:], array, stacked=True)
