"""What `--model_args` may say: the arguments of our model, and those of the harness's own."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from neox_eqx.checkpoint.origin import Origin
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import read_json

ARGUMENTS = {
    "pretrained": "a directory in Hugging Face or native layout, or a Hub id",
    "revision": "a branch, tag or commit of the Hub id, such as step3000",
    "base": "the model of a LoRA adapter, if it is not where the adapter says",
    "tokenizer": "a directory or Hub id with the tokenizer, if not the model's own",
    "dtype": "float32, bfloat16 or float16, or auto, as config.json says; by default float32 on a "
    "CPU and bfloat16 on an accelerator",
    "mesh": 'devices to spread rows and model over, as "data=2,model=4", in quotes',
    "quantize": "int8 or int4 rounds the weights of the layers",
    "max_length": "positions to use, by default all that the model has",
    "prefix_token_id": "stands before a text without a context; by default BOS, or EOS",
    "add_bos_token": "True begins every text with BOS, False adds no special token to any; by "
    "default the tokenizer decides",
}
"""Our own arguments, with a line of help for each."""

# Python reads no number of thousands of them.
_MOST_DIGITS = 20
_DTYPES = {"float": "float32", "half": "float16"}
# Arguments of the harness's transformers model about where and how it computes; no result depends
# on them.
_WITHOUT_EFFECT = {
    *("attn_implementation", "cache_dir", "device", "device_map", "local_files_only"),
    *("logits_cache", "low_cpu_mem_usage", "max_cpu_memory", "max_memory_per_gpu"),
    *("offload_folder", "parallelize", "token", "tp_plan", "trust_remote_code"),
    *("use_cache", "use_fast_tokenizer", "use_safetensors"),
}
# Its other arguments, with the values at which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "autogptq": (False,),
    "backend": ("default", "causal"),
    "chat_template_args": ({},),
    "delta": (),
    "enable_thinking": (),
    "gguf_file": (),
    "gptqmodel": (False,),
    "load_in_4bit": (False,),
    "load_in_8bit": (False,),
    "mixed_precision_dtype": ("float32", "float"),
    "softmax_dtype": ("float32", "float"),
    "subfolder": ("",),
    "think_end_token": (),
    "truncation": (False,),
}


def model_arguments(given: Mapping[str, Any], also: Iterable[str] = ()) -> dict[str, Any]:
    """The arguments in `given` under our names; `also` are further names that are allowed.

    Raises:
        InputError: one is unknown or would change results, or there is no `pretrained`.
    """
    arguments = {name: value for name, value in given.items() if name not in _WITHOUT_EFFECT}
    for name, neutral in _NEUTRAL.items():
        value = arguments.pop(name, None)
        if value is not None and value not in neutral:
            raise InputError(f"model_args: {name}={value!s:.80} is not supported; leave it out")
    _drop_idle_revision(arguments)
    adapter = arguments.pop("peft", None)
    if adapter is not None:
        arguments = _of_adapter(adapter, arguments)
    unknown = [name for name in arguments if name not in (*ARGUMENTS, *also)]
    if unknown or "pretrained" not in arguments:
        wrong = f"there is no {', '.join(unknown):.80}" if unknown else "pretrained is missing"
        raise InputError(f"model_args: {wrong}; there are {', '.join(ARGUMENTS)}")
    for name in ("pretrained", "revision", "base", "tokenizer"):
        if arguments.get(name) is not None:
            arguments[name] = str(arguments[name])  # a revision may be a number
    return arguments


def _drop_idle_revision(arguments: dict[str, Any]) -> None:
    """The harness's own model takes no notice of the revision of a directory."""
    directory, revision = str(arguments.get("pretrained")), arguments.get("revision")
    if revision is not None and os.path.isdir(directory):
        warnings.warn(
            f"model_args: revision {revision!s:.80} is of no use, as {directory} is a directory",
            stacklevel=3,
        )
        del arguments["revision"]


def _of_adapter(adapter: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's `pretrained` is the base of its `peft`, and the tokenizer is the base's."""
    base, revision = arguments.get("pretrained"), arguments.get("revision")
    if base is None or arguments.get("base") is not None:
        raise InputError("model_args: peft is an adapter of what pretrained names; give no base")
    base = f"{base}@{revision}" if revision else base
    own = {"pretrained": adapter, "base": base, "tokenizer": arguments.get("tokenizer") or base}
    return {**arguments, **own, "revision": None}


def read_dtype(dtype: str | None, origin: Origin) -> str | None:
    """The dtype by our name; the harness also has PyTorch's names, and `auto`."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        config = read_json(origin.directory / "config.json")
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        name = name.removeprefix("torch.")
    return _DTYPES.get(name, name)


def batch_rows(batch_size: int | str, max_batch_size: int | None) -> int:
    """How many rows run together; "auto" or "auto:4" leaves that to us.

    Raises:
        InputError: it is no such number.
    """
    chosen, _, times = str(batch_size).partition(":")
    if chosen == "auto" and (not times or times.replace(".", "", 1).isdecimal()):
        return min(8, max_batch_size or 8)
    is_number = str(batch_size).isdecimal() and len(str(batch_size)) < _MOST_DIGITS
    if not is_number or int(batch_size) < 1:
        raise InputError(
            f"batch_size must be a whole number of at least 1, or auto, not {shown(batch_size)}"
        )
    return int(batch_size)
