"""A tokenizer of the tokenizers library, as transformers makes it of a checkpoint's files."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, processors

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import MOST_TOKENIZER_BYTES, read_bytes, read_json
from neox_eqx.text.added_tokens import CONFIG, AddedTokens, read_added_tokens
from neox_eqx.text.tokenizer_class import GPT2, LLAMA, NEOX, SPECIAL_TOKENS, build, flag
from neox_eqx.tokenizer import broken_as_input_error, check_vocabulary

Tokenizer = tokenizers.Tokenizer


def read_tokenizer_json(path: Path, name: str, options: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a tokenizer.json, under the class `name` of transformers.

    GPTNeoXTokenizer, GPT2Tokenizer and LlamaTokenizer set all but the vocabulary themselves,
    GPTNeoXTokenizer even what begins and ends a text: nothing does. Under any other class, and
    where the kind of vocabulary is not the class's, the file holds as it stands. `add_bos_token`
    and `add_eos_token` have no say beside a tokenizer.json. `options` are the object of
    tokenizer_config.json, whose directory is that of the path.

    Raises:
        InputError: a file is broken, or two of them contradict each other.
    """
    file = read_json(path, MOST_TOKENIZER_BYTES)
    with broken_as_input_error(f"{path}: is not a tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
    added = read_added_tokens(path.parent, options, file.get("added_tokens") or ())
    with broken_as_input_error(f"{path}: is no tokenizer of the class {name:.80}"):
        own = _own(name, tokenizer, file["model"], options)
    if own and name != NEOX:
        own.post_processor = tokenizer.post_processor
    return _finish(own or tokenizer, added, name if own else "", path, options)


def read_vocab_and_merges(directory: Path, name: str, options: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of vocab.json and merges.txt, as GPT-2 has them.

    Raises:
        InputError: a file is broken, or the class `name` is another than GPT-2's or GPT-NeoX's.
    """
    path = directory / "vocab.json"
    if name not in (NEOX, GPT2):
        raise InputError(
            f"{directory}: has vocab.json and merges.txt, which are for {NEOX} or {GPT2}, and its "
            f"class is {shown(name)}; save it with transformers to get a tokenizer.json"
        )
    for file in (path, directory / "merges.txt"):
        read_bytes(file, MOST_TOKENIZER_BYTES)  # the library reads one of any size
    with broken_as_input_error(f"{path}, {directory / 'merges.txt'}: are no vocabulary"):
        vocabulary, merges = models.BPE.read_file(str(path), str(directory / "merges.txt"))
        tokenizer = build(name, vocabulary, merges, options)
    added = read_added_tokens(directory, options)
    _finish(tokenizer, added, name, path, options)
    tokenizer.post_processor = _begin_and_end(tokenizer, added, name, options)
    return tokenizer


def _begin_and_end(
    tokenizer: Tokenizer, added: AddedTokens, name: str, options: Mapping[str, Any]
) -> processors.TemplateProcessing:
    """Puts BOS before every text and EOS after it where tokenizer_config.json asks for them."""
    before, after = (
        [token]
        if flag(options, f"add_{role}") and (token := added.with_role(role, SPECIAL_TOKENS[name]))
        else []
        for role in ("bos_token", "eos_token")
    )
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in {*before, *after}],
    )


def _own(
    name: str, tokenizer: Tokenizer, model: Mapping[str, Any], options: Mapping[str, Any]
) -> Tokenizer | None:
    """The tokenizer that a class makes of the vocabulary; None where the file counts as it is."""
    if name not in (NEOX, GPT2, LLAMA) or not isinstance(tokenizer.model, models.BPE):
        return None
    parts = (tokenizer.pre_tokenizer, tokenizer.decoder)
    is_byte_level = any("ByteLevel" in str(part) for part in parts)
    if is_byte_level == (name == LLAMA):
        return None
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    return build(name, model["vocab"], merges, options)


def _finish(
    tokenizer: Tokenizer, added: AddedTokens, name: str, path: Path, options: Mapping[str, Any]
) -> Tokenizer:
    """Adds the tokens that the files name."""
    known = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    with broken_as_input_error(f"{path}: the tokenizer breaks down over its added tokens"):
        tokenizer.add_tokens(added.in_order(SPECIAL_TOKENS.get(name, {}), known))
    tokenizer.encode_special_tokens = flag(options, "split_special_tokens")
    # Files of instruction-tuned models often carry the padding of their training.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    check_vocabulary(tokenizer.get_vocab(), str(path))
    _check_ids(tokenizer, added, path)
    return tokenizer


def _check_ids(tokenizer: Tokenizer, added: AddedTokens, path: Path) -> None:
    """Checks that files give added tokens the ids that they get: those after the vocabulary's."""
    for id, token in added.by_id.items():
        text, actual = shown(token.content), tokenizer.token_to_id(token.content)
        other = tokenizer.id_to_token(id)
        if actual != id and other is not None:
            raise InputError(
                f"{path.parent}: the id {id} of the added token {text} is also that of "
                f"{shown(other)}; correct {CONFIG} or added_tokens.json"
            )
        if actual != id:
            warnings.warn(
                f"{path.parent}: the added token {text} should have the id {id}, and gets the "
                f"next free one, {actual}, as in transformers",
                stacklevel=2,
            )
