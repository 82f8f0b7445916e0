"""A model as a file of llama.cpp: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neox_eqx.checkpoint.names import HEAD, parameters
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.formats import is_quantized
from neox_eqx.model.neox import GPTNeoX

if TYPE_CHECKING:
    import gguf

FORMS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
"""What llama.cpp calls our forms of a matrix: its 8 and 4 bits are in groups of 32 inputs."""

# llama.cpp has the last for all of them.
_GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def write_gguf(model: GPTNeoX, path: Path, form: str) -> None:
    """Writes matrices in this of `FORMS` and vectors in float32; a tokenizer is not in the file.

    It needs the package `gguf`.

    Raises:
        InputError: weights are in few bits already, and would be rounded twice; or llama.cpp has no
            such model.
    """
    import gguf

    if is_quantized(model):
        raise InputError("weights are in few bits; give the checkpoint that they were made of")
    config = model.config
    if config.rope_parameters.rope_type != "default" or config.hidden_act not in _GELUS:
        raise InputError("llama.cpp has GPT-NeoX with gelu and unscaled positions alone")

    kind = gguf.GGMLQuantizationType[FORMS[form]]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPTNEOX, model.config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "gptneox")
    _write_config(writer, model.config)
    for name, array in _tensors(model):
        own = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        writer.add_tensor(theirs, gguf.quants.quantize(array, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: "gguf.GGUFWriter", config: GPTNeoXConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(config.rope_parameters.rope_theta)
    writer.add_head_count(config.num_attention_heads)
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def _tensors(model: GPTNeoX) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor in float32 under its name in a checkpoint; the head also where it is tied."""
    config = model.config
    for parameter in parameters(model):
        array = np.asarray(parameter.array)
        layers = array if parameter.stacked else [array]
        for name, own in zip(parameter.names, layers, strict=True):
            wide = np.asarray(own).astype(np.float32)
            if ".query_key_value." in name:
                wide = _queries_first(wide, config.num_attention_heads)
            yield name, np.ascontiguousarray(wide)
    if model.embed_out is None:
        yield HEAD, np.asarray(model.embed_in.weight).astype(np.float32)


def _queries_first(x: np.ndarray, heads: int) -> np.ndarray:
    """The rows of all queries, then of all keys, then of all values; ours are by heads."""
    split = x.reshape(heads, 3, -1, *x.shape[1:])
    return split.swapaxes(0, 1).reshape(x.shape)
