"""Tokenizers made from a few sentences, and checkpoints of tiny models that go with them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPTNeoXForCausalLM

from tests.hf_models import config_json, hf_model

SENTENCES = (
    "안녕하세요, 세계! 한국어를 이어서 씁니다.",
    "日本語の文章を続けて書きます。",
    "Two cats and three dogs went home. How many animals went home?",
    "I like 👍🏽 and 👩‍👩‍👧‍👦 and 🇰🇷.",
)
BOS, EOS = "<bos>", "<eos>"


def byte_level(vocab_size: int = 300) -> Tokenizer:
    """Byte-level BPE as Pythia's and Polyglot's; a rare character is several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """A SentencePiece-like one as rinna's: ▁ is a space, and unknown bytes are tokens."""
    words = [f"▁{word}" for sentence in SENTENCES for word in sentence.split()]
    characters = sorted(set("".join(words)) - set("👍🏽👩👧👦🇰🇷\u200d"))
    pieces = [BOS, EOS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += dict.fromkeys([*characters, *words])
    scores = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(BOS), AddedToken(EOS)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    return tokenizer


def save_checkpoint(
    directory: Path, tokenizer: Tokenizer, defaults: dict[str, Any] | None = None
) -> GPTNeoXForCausalLM:
    """Saves a random model as transformers does, with the tokenizer; its last 10 ids are padding.

    `defaults` become its generation_config.json.
    """
    size = tokenizer.get_vocab_size()
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    config = config_json(32, 2, vocab_size=size + 10, bos_token_id=bos, eos_token_id=eos)
    model = hf_model(config)
    own = dict(bos_token_id=bos, eos_token_id=eos, pad_token_id=eos)
    model.generation_config = GenerationConfig(**own)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "generation_config.json").write_text(json.dumps({**own, **(defaults or {})}))
    return model
