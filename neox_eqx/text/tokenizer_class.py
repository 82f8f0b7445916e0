"""What a class of transformers makes of a vocabulary, whatever its tokenizer.json says.

Since version 5, transformers builds the tokenizers of some classes anew: of tokenizer.json they
take the vocabulary and the merges, and set all else themselves. `AutoTokenizer` takes the class
that tokenizer_config.json names, or else config.json, or else GPT-NeoX's.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from neox_eqx.errors import InputError
from neox_eqx.shown import shown

NEOX, GPT2, LLAMA = "GPTNeoXTokenizer", "GPT2Tokenizer", "LlamaTokenizer"

_END = "<|endoftext|>"
SPECIAL_TOKENS: Mapping[str, dict[str, str]] = {
    NEOX: {
        "bos_token": _END,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": "<|padding|>",
    },
    GPT2: {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    LLAMA: {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
"""The special tokens that a class has where the files name no others."""


def class_of(options: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class's name without "Fast", or "" where no file names one.

    `options` are the object of tokenizer_config.json, `config` that of config.json.

    Raises:
        InputError: it is not a text.
    """
    name = options.get("tokenizer_class") or config.get("tokenizer_class")
    if name is None:
        return NEOX if config.get("model_type") == "gpt_neox" else ""
    if not isinstance(name, str):
        raise InputError(f"tokenizer_config.json: tokenizer_class is {shown(name)}, not a name")
    return name.removesuffix("Fast")


def build(
    name: str, vocabulary: dict[str, int], merges: list[tuple[str, str]], options: Mapping[str, Any]
) -> Tokenizer:
    """The class's tokenizer of a BPE vocabulary; `options` are the object of tokenizer_config.json.

    Raises:
        InputError: a flag is neither true nor false.
    """
    if name == LLAMA:
        return _llama(vocabulary, merges, options)
    none = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, **none))
    if name == NEOX:
        tokenizer.normalizer = normalizers.NFC()
    space = flag(options, "add_prefix_space")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _llama(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], options: Mapping[str, Any]
) -> Tokenizer:
    """SentencePiece's BPE: ▁ is a space, and what has no token is bytes."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True))
    space = options.get("add_prefix_space") is None or flag(options, "add_prefix_space")
    where = "always" if flag(options, "legacy") else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme=where if space else "never", split=False
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space:
        parts.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def flag(options: Mapping[str, Any], name: str) -> bool:
    """A yes or no of tokenizer_config.json.

    Raises:
        InputError: it is neither true nor false.
    """
    value = options.get(name)
    if not isinstance(value, bool | None):
        raise InputError(f"tokenizer_config.json: {name} is {shown(value)}, not true or false")
    return bool(value)
