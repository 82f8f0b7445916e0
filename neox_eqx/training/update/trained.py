"""What a run trains, apart from what it leaves as it is."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.adapter import Adapter
from neox_eqx.checkpoint.names import parameters
from neox_eqx.errors import InputError
from neox_eqx.model.adapt import adapt, split
from neox_eqx.model.formats import is_quantized
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import Prefix, Prompt, SoftPrompt
from neox_eqx.model.quantized import cast
from neox_eqx.sharding.rules import TRAINING_RULES, parameter_shardings
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.tuning import FEW_BITS, Tuning

Trained = GPTNeoX | SoftPrompt | Prefix
"""What is trained: a model with None for each frozen parameter, or a soft prompt or prefix."""


def trainable(
    model: GPTNeoX,
    tuning: Tuning,
    recipe: Recipe,
    text: Sequence[int] = (),
    adapter: Adapter | None = None,
) -> tuple[Trained, GPTNeoX | None]:
    """The parameters to train, for `TrainState.start`, and the frozen ones, for `train_step`.

    The frozen parameters are in the dtype of the computation, and lie as trained ones would.
    `text` are the tokens of `prompt_text`, repeated or cut to the number of positions; without
    any, tokens are chosen at random. LoRA goes on from the `adapter`, if there is one. All that
    is random follows from the recipe's seed.

    Raises:
        InputError: the model is in few bits and LoRA is not what is trained, or it has heads added
            that LoRA would train; or a token is not in its vocabulary.
    """
    if is_quantized(model) and not tuning.lora_rank:
        raise InputError(FEW_BITS)
    if not tuning.is_partial:
        return model, None
    if tuning.lora_rank and model.num_heads > model.config.num_attention_heads:
        raise InputError("LoRA would train the heads that the mesh adds; leave out its heads=")
    frozen = _freeze(model, recipe)
    if tuning.lora_rank:
        key = jax.random.key(recipe.seed)
        trained, frozen = split(
            adapt(
                frozen,
                tuning.lora_targets,
                tuning.lora_rank,
                tuning.lora_alpha,
                key,
                use_rslora=tuning.use_rslora,
                dropout=tuning.lora_dropout or 0.0,
            )
        )
        return (trained if adapter is None else _as_adapter(trained, adapter)), frozen
    tokens = _first_tokens(tuning, recipe, text, model.config.vocab_size)
    kind = SoftPrompt if tuning.prompt_tokens else Prefix
    return jax.jit(kind.of_tokens)(frozen, jnp.asarray(tokens, jnp.int32)), frozen


def join(trained: Trained, frozen: GPTNeoX | None) -> tuple[GPTNeoX, Prompt | None]:
    """The whole model, and what stands before its text."""
    if not isinstance(trained, GPTNeoX):
        assert frozen is not None
        return frozen, trained
    return (trained if frozen is None else eqx.combine(trained, frozen)), None


def _as_adapter(trained: GPTNeoX, adapter: Adapter) -> GPTNeoX:
    """The model with an adapter's values in its A and B."""
    arrays = []
    for leaf in parameters(trained):
        values = []
        for name in leaf.names:
            module, which, _ = name.rsplit(".", 2)
            pair = adapter.pairs[module]
            values.append(pair.right if which == "lora_A" else pair.left)
        arrays.append(jnp.asarray(np.stack(values) if leaf.stacked else values[0]))
    return jax.tree.unflatten(jax.tree.structure(trained), arrays)


def _freeze(model: GPTNeoX, recipe: Recipe) -> GPTNeoX:
    model = cast(model, recipe.compute_dtype)
    if model.mesh is None:
        return model
    return jax.device_put(model, parameter_shardings(model, model.mesh, TRAINING_RULES))


def _first_tokens(
    tuning: Tuning, recipe: Recipe, text: Sequence[int], vocab_size: int
) -> np.ndarray:
    if not text:
        return np.random.default_rng(recipe.seed).integers(vocab_size, size=tuning.positions)
    if not 0 <= min(text) <= max(text) < vocab_size:
        raise InputError(
            f"prompt_text has a token that is not in the model's vocabulary of {vocab_size}; "
            "the tokenizer belongs to another model"
        )
    return np.resize(np.array(text), tuning.positions)
