"""From an EleutherAI checkpoint to the tensors and the config.json that Hugging Face has."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.fit import model_shapes
from neox_eqx.checkpoint.names import EMBEDDING, HEAD, parameters
from neox_eqx.checkpoint.origin import stored_as
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.neox.config import check_intermediate_size, published, read_config
from neox_eqx.convert.neox.files import find_step, read_ranks
from neox_eqx.convert.neox.merge import Joined, Run, Summed, are_equal
from neox_eqx.convert.neox.names import NeoxParameter
from neox_eqx.convert.neox.parameters import find_parameters
from neox_eqx.convert.neox.qkv import interleaved
from neox_eqx.convert.neox.settings import Settings, check_representable, read_settings
from neox_eqx.convert.neox.vocab import END_OF_TEXT, Vocabulary, read_vocabulary
from neox_eqx.convert.source import CONFIG, Source, find_companions
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.text.tokenizer import load_tokenizer

RowBias = Literal["auto", "sum", "first"]


@dataclasses.dataclass(frozen=True)
class NeoxOptions:
    """What an EleutherAI checkpoint does not say of itself."""

    row_bias: RowBias = "auto"
    """From EleutherAI: whether the ranks' copies of an output bias are added, or one is taken; auto
    adds them with parallel residuals, where each rank adds its own."""
    padded_vocab: Literal["keep", "cut"] = "keep"
    """From EleutherAI: rows of embedding and head that stand for no token."""
    fused_gelu: Literal["gelu", "gelu_fast"] = "gelu"
    """From EleutherAI: what the activation of a run with bias_gelu_fusion is called; its kernel
    computes gelu_fast, and models published from such runs mostly say gelu."""
    replicated: Literal["equal", "mean"] = "equal"
    """From EleutherAI: ranks' copies of a norm must be equal, or their mean is taken."""


def read_neox(
    directory: Path,
    options: NeoxOptions = NeoxOptions(),
    *,
    tokenizer: Path | None = None,
) -> Source:
    """An EleutherAI checkpoint under Hugging Face's names; its tensors are read from all ranks.

    `directory` is the checkpoint's root, with `latest`, or that of a step. The ids of the
    tokens are those of the tokenizer in the directory `tokenizer`, or of the run's own.

    Raises:
        InputError: the checkpoint is incomplete, corrupt, of several steps, or of a kind that
            Hugging Face's GPT-NeoX cannot represent; the message names the file and the tensor.
    """
    found_step = find_step(directory)
    if found_step is None:
        raise InputError(f"{directory}: is no EleutherAI checkpoint; it has no file `latest`")
    root, step = found_step
    ranks = read_ranks(step)
    settings = read_settings(step, root, ranks.files[0], ranks.arguments)
    check_representable(settings)
    found = find_parameters(ranks, settings)
    config = _config(found, settings, options.fused_gelu)
    merge = _Merge(settings, config, options.row_bias, options.replicated)
    entries = [merge(parameter, parts) for parameter, parts in found.items()]
    _check_shapes(settings, config, entries)

    if tokenizer:
        vocabulary = Vocabulary(load_tokenizer(tokenizer).get_vocab(), {})
    else:
        vocabulary = read_vocabulary(step, root, settings)
    config_json = _config_json(root / CONFIG, config, vocabulary.ids)
    if options.padded_vocab == "cut":
        size = _vocabulary_size(root, config, vocabulary.ids)
        config_json["vocab_size"] = size
        entries = [_cut(entry, size) for entry in entries]
    dtype = entries[0].dtype.name
    return Source(
        "neox",
        root,
        config_json | {"dtype": dtype, "torch_dtype": dtype},
        entries,
        (*settings.files, *filter(Path.is_file, [root / CONFIG]), *ranks.files),
        {stored_as(path): path for path in find_companions(root)} | dict(vocabulary.files),
    )


def _config_json(
    path: Path, config: GPTNeoXConfig, vocabulary: Mapping[str, int]
) -> dict[str, Any]:
    """The config.json beside the checkpoint, or one that is made from the run's settings."""
    if path.is_file():
        return published(path, config)
    end = vocabulary.get(END_OF_TEXT)
    return dataclasses.replace(config, bos_token_id=end, eos_token_id=end).to_hf()


def _config(
    found: Mapping[NeoxParameter, tuple[Entry, ...]], settings: Settings, fused_gelu: str
) -> GPTNeoXConfig:
    """The architecture, with the sizes that only the tensors tell."""
    rows = {
        parameter.name: sum(part.shape[0] for part in parts) for parameter, parts in found.items()
    }
    intermediate_size = rows["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"]
    check_intermediate_size(settings.where, settings.values, intermediate_size)
    return read_config(
        settings.where,
        settings.values,
        fused_gelu=fused_gelu,
        vocab_size=rows[EMBEDDING],
        intermediate_size=intermediate_size,
    )


@dataclasses.dataclass(frozen=True)
class _Merge:
    """Makes one tensor of what the ranks hold of a parameter."""

    settings: Settings
    config: GPTNeoXConfig
    row_bias: RowBias
    replicated: Literal["equal", "mean"]

    def __call__(self, parameter: NeoxParameter, parts: tuple[Entry, ...]) -> Entry:
        if parameter.spread == "copies":
            return self._copies(parameter, parts)
        if parameter.spread == "shares":
            return self._shares(parameter, parts)
        kv_heads = self.settings.values.get("num_kv_heads") or self.config.num_attention_heads
        if ".query_key_value." in parameter.name and kv_heads != self.config.num_attention_heads:
            return self._grouped(parameter, parts, kv_heads)
        return Joined.whole(parameter.name, 0 if parameter.spread == "rows" else 1, parts)

    def _copies(self, parameter: NeoxParameter, parts: tuple[Entry, ...]) -> Entry:
        if are_equal(parts):
            return Joined.whole(parameter.name, 0, parts[:1])
        if self.replicated == "mean":
            return Summed(parameter.name, parts, divisor=len(parts))
        raise InputError(
            f"{parts[0].path}: {parts[0].name} differs from that of another rank, where all are "
            "to be copies; get the ranks' files of one step, or choose --replicated mean"
        )

    def _shares(self, parameter: NeoxParameter, parts: tuple[Entry, ...]) -> Entry:
        parallel = self.config.use_parallel_residual
        if self.row_bias == "sum" or (self.row_bias == "auto" and parallel):
            return Summed(parameter.name, parts)
        if self.row_bias == "first" or are_equal(parts):
            return Joined.whole(parameter.name, 0, parts[:1])
        raise InputError(
            f"{parts[0].path}: {parts[0].name} differs from that of another rank, where with "
            "sequential residuals all are to be copies; choose --row-bias sum or first"
        )

    def _grouped(self, parameter: NeoxParameter, parts: tuple[Entry, ...], kv_heads: Any) -> Entry:
        where = self.settings.where
        if not isinstance(kv_heads, int) or kv_heads < 1:
            raise InputError(
                f"{where}: num_kv_heads must be a number above 0, not {shown(kv_heads)}"
            )
        if "qkv" in parts[0].name:
            raise InputError(
                f"{where}: num_kv_heads {kv_heads} with Transformer Engine's attention cannot be "
                "converted; its order of the heads is not known"
            )
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        return interleaved(parameter.name, parts, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def _check_shapes(settings: Settings, config: GPTNeoXConfig, entries: list[Entry]) -> None:
    model = model_shapes(config, jnp.dtype(jnp.float32), stacked=False)
    shapes = {parameter.names[0]: parameter.shape for parameter in parameters(model)}
    for entry in entries:
        if entry.shape != shapes[entry.name]:
            raise InputError(
                f"{entry.path}: {entry.name} is {list(entry.shape)} over all ranks, and "
                f"{settings.where} makes it {list(shapes[entry.name])}; give this run's settings, "
                "and the files of all its ranks"
            )
        if not jnp.issubdtype(entry.dtype, np.floating):
            raise InputError(f"{entry.path}: {entry.name} is {entry.dtype}, not floating point")


def _vocabulary_size(root: Path, config: GPTNeoXConfig, vocabulary: Mapping[str, int]) -> int:
    size = 1 + max(vocabulary.values(), default=config.vocab_size)
    if size > config.vocab_size:
        raise InputError(
            f"{root}: the vocabulary cannot be cut without a tokenizer beside the checkpoint that "
            f"has at most its {config.vocab_size} tokens; put tokenizer.json there, or keep all"
        )
    return size


def _cut(entry: Entry, vocab_size: int) -> Entry:
    if entry.name not in (EMBEDDING, HEAD):
        return entry
    return Joined(entry.name, 0, (Run(entry, 0, vocab_size),))
