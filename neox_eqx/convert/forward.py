"""Our model of a result against transformers' model: the same input, the same float32 logits."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.load import LoadOptions, load_checkpoint
from neox_eqx.checkpoint.names import HEAD, stored_name
from neox_eqx.convert.memory import shortage
from neox_eqx.convert.source import Source
from neox_eqx.model.neox import GPTNeoX

PROMPT, NEW = 8, 32
"""Tokens of the prompt, and tokens that continue it."""


def compare(source: Source, wanted: Source, result: Source, directory: Path) -> dict[str, Any]:
    """The largest difference of logits, and how many greedy tokens agree; or why not.

    transformers continues a prompt greedily, and both models then score all positions of that
    text.
    """
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return {"skipped": "transformers and torch are not installed"}
    reason = _too_large(result)
    if reason:
        return {"skipped": reason}
    checkpoint = result.checkpoint
    prompt = [7919 * index % checkpoint.config.vocab_size for index in range(PROMPT)]
    read, tokens, theirs = _read(source, wanted, result, directory, prompt)
    ours = _ours(checkpoint, tokens)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return {"skipped": "the logits are not finite, in float32"}
    last = slice(PROMPT - 1, PROMPT + NEW - 1)
    return {
        "dtype": "float32",
        "transformers_read": read,
        "prompt": prompt,
        "positions": len(tokens),
        "largest_logit_difference": float(np.abs(ours - theirs).max()),
        "logit_rms": float(np.sqrt(np.mean(np.square(theirs, dtype=np.float64)))),
        "greedy_tokens": NEW,
        "greedy_tokens_agreeing": int((ours[last].argmax(-1) == tokens[PROMPT:]).sum()),
    }


def _read(
    source: Source, wanted: Source, result: Source, directory: Path, prompt: list[int]
) -> tuple[str, np.ndarray, np.ndarray]:
    """What transformers reads, in words, and what `_theirs` returns for it.

    transformers reads the source, where that is in Hugging Face's layout and no dtype changes, or
    else the result; from other layouts it is given our tensors.
    """
    if source.layout == "hf" and source.adapter is None and wanted is source:
        # Some old files this package reads and transformers does not: an index without metadata.
        with contextlib.suppress(Exception):
            return "the source's files", *_theirs(source, source.directory, prompt)
    if result.layout == "hf":
        return "the result's files", *_theirs(result, directory, prompt)
    return "the tensors of the result, by our reader", *_theirs(result, None, prompt)


def _too_large(result: Source) -> str | None:
    """Why a model does not fit into memory, if so; ours and theirs are not there at once."""
    short = shortage(result.entries, bytes_each=4)
    if short is None:
        return None
    return "needs {} of memory in float32, and {} are free".format(*short)


def _theirs(
    source: Source, directory: Path | None, prompt: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The prompt with what transformers' model makes of it, and the logits of all positions."""
    import torch
    from transformers import GenerationConfig

    with _quiet(), torch.inference_mode():
        model = _their_model(source, directory)
        # The checkpoint's own settings might penalise, sample or stop early.
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=NEW, pad_token_id=0
        )
        ids = torch.tensor([prompt])
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids))
        logits = model(tokens).logits[0]
    return tokens[0].numpy(), logits.numpy()


def _their_model(source: Source, directory: Path | None) -> Any:
    """transformers' model, which reads the weights in `directory` itself if there is one.

    It reads nothing else there: a result gets its config.json last, and generation settings are
    not compared.
    """
    import torch
    from transformers import GenerationConfig, GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig.from_dict(copy.deepcopy(source.config_json))  # it alters its argument
    if directory is not None:
        return GPTNeoXForCausalLM.from_pretrained(
            directory,
            config=config,
            generation_config=GenerationConfig(),
            dtype=torch.float32,
            attn_implementation="eager",
        ).eval()
    if any(stored_name(entry.name) == HEAD for entry in source.entries):
        config.tie_word_embeddings = False  # a copy of the embedding is as good, another is meant
    model = GPTNeoXForCausalLM(config).eval().float()
    model.set_attn_implementation("eager")
    parameters = {stored_name(name): tensor for name, tensor in model.named_parameters()}
    for entry in source.entries:
        parameter = parameters.get(stored_name(entry.name))
        if parameter is not None:
            whole = entry.read(tuple(slice(0, size) for size in entry.shape))
            parameter.copy_(torch.from_numpy(whole.astype(np.float32)))
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and remarks."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _ours(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    model = load_checkpoint(checkpoint, LoadOptions(dtype="float32", stacked=True))
    with jax.default_matmul_precision("highest"):
        return np.asarray(_logits(model, jnp.asarray(tokens[None], jnp.int32))[0])


@eqx.filter_jit
def _logits(model: GPTNeoX, tokens: jax.Array) -> jax.Array:
    hidden, _ = model(tokens, jnp.ones(tokens.shape, bool))
    return model.logits(hidden)
