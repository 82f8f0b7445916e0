"""Texts, tokenizers and their small files, drawn at random from a seed."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.text.checkpoints import SENTENCES, byte_level, metaspace

WORDS = (
    "the cat, isn't it? 3 dogs 1,000 I'm Seoul",
    "안녕하세요 세계! 한국어를 이어서 씁니다 뛟",
    "日本の首都は東京です。 続けて、カタカナ",
    "中文的句子，人工智能 龘",
    "Straße déjà vu, cafe\u0301 Ärger œuvre",
    "Привет, мир नमस्ते दुनिया مرحبا",
)
SPACES = (" ", "  ", "\n", "\n\n", "\t", " \n ", "\u3000")
MARKS = (*SPACES, "👍🏽", "👩\u200d👩\u200d👧\u200d👦", "🇰🇷", "🙂", "\ufffd", ".", "'s")
SPECIAL = (
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "<|padding|>",
    "<s>",
    "</s>",
    "<unk>",
    "<|user|>",
    "<|end|>",
    "cat",
    "Straße",
    " the ",
)
"""Of which a tokenizer has some: its own, its class's, and those that small files add."""


def draw_text(random: random.Random, special: Sequence[str] = SPECIAL) -> str:
    """Some words of one or two languages between spaces, newlines, emoji and `special` tokens."""
    lines = random.sample(WORDS, random.randint(1, 2))
    parts = []
    for _ in range(random.randint(1, 12)):
        kind = random.random()
        if kind < 0.5:
            parts.append(random.choice(random.choice(lines).split()))
        else:
            parts.append(random.choice(MARKS if kind < 0.8 or not special else special))
        parts.append(random.choice(["", " "]))
    return "".join(parts)


def metaspace_bpe() -> Tokenizer:
    """BPE as LLaMA's: ▁ is a space, and bytes stand for what has no token."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [entry for entry in file["added_tokens"] if entry["id"] < 3]
    return Tokenizer.from_str(json.dumps(file))


def split_byte_level() -> Tokenizer:
    """Byte-level BPE with a normaliser and a second pre-tokeniser of its own, as Polyglot's."""
    tokenizer = byte_level(340)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """Words and their pieces, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


_BYTE_LEVEL = (
    None,
    "GPTNeoXTokenizer",
    "GPTNeoXTokenizerFast",
    "GPT2TokenizerFast",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
)
KINDS: dict[str, tuple[Callable[[], Tokenizer], tuple[str | None, ...]]] = {
    "byte-level": (byte_level, _BYTE_LEVEL),
    "byte-level with its own parts": (split_byte_level, _BYTE_LEVEL),
    "metaspace BPE": (metaspace_bpe, ("LlamaTokenizer", "PreTrainedTokenizerFast")),
    "metaspace unigram": (metaspace, ("PreTrainedTokenizerFast",)),
    "word pieces": (word_piece, ("PreTrainedTokenizerFast",)),
}
"""Tokenizers, and the classes that tokenizer_config.json may name for them."""


def draw_directory(directory: Path, tokenizer: Tokenizer, name: str | None, seed: int) -> None:
    """Writes a tokenizer.json with a template, and small files with flags and added tokens."""
    draw = random.Random(seed)
    first = tokenizer.id_to_token(1)
    template = draw.choice([None, "$A", f"{first} $A", f"$A {first}"])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(first, 1)]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    flags = ("add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens")
    options: dict[str, Any] = {} if name is None else {"tokenizer_class": name}
    for flag in (*flags, "legacy", "do_lower_case"):
        if draw.random() < 0.4:
            options[flag] = draw.random() < 0.5
    for role in ("bos_token", "eos_token", "unk_token", "pad_token", "image_token"):
        if draw.random() < 0.3:
            options[role] = _spelling(draw, draw.choice(SPECIAL))
    if draw.random() < 0.3:
        options["additional_special_tokens"] = draw.sample(SPECIAL, 2)
    size = tokenizer.get_vocab_size()
    new = [token for token in draw.sample(SPECIAL, 3) if tokenizer.token_to_id(token) is None]
    added = {token: size + place for place, token in enumerate(new)}
    if draw.random() < 0.5:
        own = {str(id): token.__getstate__() for id, token in _added(tokenizer).items()}
        further = {str(id): _properties(draw, token) for token, id in added.items()}
        options["added_tokens_decoder"] = own | further
    elif draw.random() < 0.5:
        (directory / "added_tokens.json").write_text(json.dumps(added))
    if draw.random() < 0.4:
        tokens = {"eos_token": _spelling(draw, draw.choice(SPECIAL))}
        tokens["additional_special_tokens"] = draw.sample(SPECIAL, 2)
        (directory / "special_tokens_map.json").write_text(json.dumps(tokens))
    if options or draw.random() < 0.5:
        (directory / "tokenizer_config.json").write_text(json.dumps(options))
    config = {"model_type": "gpt_neox", "vocab_size": size}
    (directory / "config.json").write_text(json.dumps(config))


def _added(tokenizer: Tokenizer) -> dict[int, Any]:
    return tokenizer.get_added_tokens_decoder()


def _spelling(draw: random.Random, token: str) -> str | dict[str, Any]:
    """A token as tokenizer_config.json may write it: its text, or an object."""
    if draw.random() < 0.6:
        return token
    return {"__type": "AddedToken", **_properties(draw, token)}


def _properties(draw: random.Random, token: str) -> dict[str, Any]:
    names = ("lstrip", "rstrip", "normalized", "single_word", "special")
    return {"content": token, **{name: draw.random() < 0.4 for name in names}}
