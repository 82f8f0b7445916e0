"""Texts as the tokens of a vocabulary: words to forbid, and what each token spells."""

import dataclasses
import json
import re
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool

from neox_eqx.errors import InputError
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.vocabulary import TokenBytes
from neox_eqx.shown import shown
from neox_eqx.tokenizer import Tokenizer, check_vocabulary, text_of, token_ids

# Tokens for single bytes, as the tokenizers library reads them.
_BYTE = re.compile(r"<0x[+0-9A-Fa-f][0-9A-Fa-f]>")


def bad_word_ids(tokenizer: Tokenizer, word: str) -> list[tuple[int, ...]]:
    """The tokens of a word at the start of a text and, if they are others, after a space.

    Raises:
        InputError: it has no tokens.
    """
    spellings = (word, f" {word}")
    ids = [token_ids(tokenizer, text, add_special_tokens=False) for text in spellings]
    if not ids[0]:
        raise InputError(f"bad_words: the tokenizer makes nothing of {shown(word)}")
    return list(dict.fromkeys(ids))


def with_ids(options: ResolvedOptions, tokenizer: Tokenizer) -> ResolvedOptions:
    """The options with the token ids of bad words that are texts.

    Raises:
        InputError: a word has no tokens.
    """
    bad = [
        ids
        for word in options.bad_words
        for ids in (bad_word_ids(tokenizer, word) if isinstance(word, str) else [word])
    ]
    return dataclasses.replace(options, bad_words=tuple(bad))


def known_tokens(tokenizer: Tokenizer, vocab_size: int) -> Bool[np.ndarray, " V"]:
    """Which ids of a model's vocabulary the tokenizer has."""
    known = np.zeros(vocab_size, bool)
    ids = np.array(list(tokenizer.get_vocab(with_added_tokens=True).values()))
    known[ids[ids < len(known)]] = True
    return known


def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """What each token spells within a text, by its id; None where there is no such token.

    A token of a byte-level vocabulary, or one that falls back to bytes, may spell part of a
    character.

    Raises:
        InputError: an id is so high that the table would fill the memory.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    check_vocabulary(vocabulary, "the tokenizer")
    spelled: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    kinds = _decoder_types(json.loads(tokenizer.to_str())["decoder"])
    # With a token before it, as the first token of a text may lose its space.
    before = next(([id] for id in sorted(vocabulary.values()) if text_of(tokenizer, [id])), [])
    start = text_of(tokenizer, before, skip_special_tokens=False)
    for token, id in vocabulary.items():
        spelled[id] = _bytes(token, kinds)
        if spelled[id] is None:
            text = text_of(tokenizer, [*before, id], skip_special_tokens=False)
            spelled[id] = text.removeprefix(start).encode()
    return tuple(spelled)


def _decoder_types(decoder: Any) -> set[str]:
    """The kinds of decoder that a description of one names, at any depth."""
    if isinstance(decoder, list):
        return set().union(*map(_decoder_types, decoder))
    if not isinstance(decoder, dict):
        return set()
    return {decoder.get("type", "")} | _decoder_types(list(decoder.values()))


def _bytes(token: str, kinds: set[str]) -> bytes | None:
    """The bytes of a token that spells them one by one; None where only decoding tells."""
    if "ByteFallback" in kinds:
        return bytes([int(token[3:5], 16)]) if _BYTE.fullmatch(token) else None
    if "ByteLevel" in kinds and all(letter in _byte_of() for letter in token):
        return bytes(_byte_of()[letter] for letter in token)
    return None


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for, as in GPT-2.

    A byte that is a visible letter in Latin-1 has that letter; the others count from U+0100 on.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + place): byte for place, byte in enumerate(hidden)}
