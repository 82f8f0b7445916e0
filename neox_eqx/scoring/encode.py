"""Texts, and completions after prompts, as token ids to score."""

from collections.abc import Sequence

from neox_eqx.errors import InputError
from neox_eqx.scoring.pairs import Pair
from neox_eqx.shown import shown
from neox_eqx.text.generation_config import bos_token_id
from neox_eqx.text.generator import TextGenerator
from neox_eqx.tokenizer import Tokenizer, text_of, token_ids
from neox_eqx.unicode import check_unicode

Text = str | tuple[str, str]
"""A text, or a prompt and its completion, of which the completion is scored."""


def prefix_token(generator: TextGenerator) -> int | None:
    """The token before a completion without a prompt: BOS, or EOS where there is no BOS."""
    bos = bos_token_id(generator.defaults, generator.model.config)
    return next(iter(generator.eos_token_ids), None) if bos is None else bos


def encode(tokenizer: Tokenizer, text: str, prefix: int | None) -> tuple[int, ...]:
    """The ids of a text with what the tokenizer adds, unless it begins with `prefix` already.

    Raises:
        InputError: the text is not valid Unicode, or the tokenizer breaks down over it.
    """
    begun = prefix is not None and text.startswith(
        text_of(tokenizer, [prefix], skip_special_tokens=False)
    )
    return token_ids(tokenizer, text, add_special_tokens=not begun)


def encode_texts(generator: TextGenerator, texts: Sequence[Text]) -> list[Pair]:
    """What `encode_text` makes of each.

    Raises:
        InputError: a text cannot be scored; the message has its number.
    """
    pairs = []
    for number, text in enumerate(texts, 1):
        try:
            pairs.append(encode_text(generator, text))
        except InputError as error:
            raise InputError(f"text {number} of {len(texts)}: {error}") from error
    return pairs


def encode_text(generator: TextGenerator, text: Text) -> Pair:
    """The tokens of a text after its first, or those of a completion after its prompt.

    Prompt and completion are tokenized as one text, and the completion has the tokens that the
    prompt alone does not have. As in lm-evaluation-harness, spaces at the end of the prompt belong
    to the completion: most vocabularies have them in one token with the word that follows.

    Raises:
        InputError: there is nothing to score, or the model has no room for it.
    """
    config = generator.model.config
    if isinstance(text, str):
        ids = encode(generator.tokenizer, text, prefix_token(generator))
        if not ids:
            raise InputError("the text is empty")
        pair = Pair(ids[:1], ids[1:])
    elif isinstance(text, tuple | list) and len(text) == 2:
        pair = _encode_completion(generator, *text)
    else:
        raise InputError(f"must be a text, or a prompt and its completion, not {shown(text)}")
    pair.check(config.vocab_size, config.context_length)
    return pair


def _encode_completion(generator: TextGenerator, prompt: str, completion: str) -> Pair:
    check_unicode("the prompt", prompt)
    check_unicode("the completion", completion)
    if not completion:
        raise InputError("the completion is empty")
    tokenizer, prefix = generator.tokenizer, prefix_token(generator)
    whole = prompt + completion
    prompt = prompt.rstrip()
    if prompt:
        context = encode(tokenizer, prompt, prefix)
        pair = Pair(context, encode(tokenizer, whole, prefix)[len(context) :])
    else:
        if prefix is None:
            raise InputError("the prompt is empty and the model has no BOS or EOS to begin with")
        ids = token_ids(tokenizer, whole, add_special_tokens=False)
        pair = Pair((prefix,), ids[1:] if ids[:1] == (prefix,) else ids)
    if not pair.tokens:
        raise InputError(f"the completion {completion[:30]!r} adds no token to the prompt's")
    return pair
