"""From examples to token ids, and what becomes of those that are too long."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids
from neox_eqx.text.tokenizer import prompt_tokens
from neox_eqx.training.examples import Example, unit_of


@dataclasses.dataclass(frozen=True)
class Document:
    """The tokens of one example."""

    number: int
    """Of the example."""
    tokens: np.ndarray
    """int32, with the EOS token at the end, if the model has one."""
    given: int
    """How many come from the prompt, and are not learnt; 0 of a plain text."""

    @property
    def learnt(self) -> int:
        """The number of tokens that are learnt: the first of a text is predicted by nothing."""
        return len(self.tokens) - max(self.given, 1)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What was made of the examples."""

    examples: int
    cut: int
    dropped: int
    tokens: int
    """In the documents as they are trained on, prompts included."""
    learnt_tokens: int

    def told(self, use: str) -> str:
        """In words; `use` is what becomes of the tokens that count, as in "are learnt"."""
        return (
            f"{self.examples} examples, {self.cut} of them cut and {self.dropped} dropped; "
            f"{self.learnt_tokens} of {self.tokens} tokens {use}"
        )


def tokenize(
    examples: Sequence[Example],
    path: Path,
    tokenizer: Tokenizer,
    config: GPTNeoXConfig,
    defaults: Mapping[str, Any],
) -> list[Document]:
    """The documents of the examples, in their order.

    `path` is where they were read, and `defaults` are of generation_config.json.

    A prompt has the tokens that generation would give the model. Those of the completion are as
    in the whole text if they begin where the prompt's end there, else as in a text of its own.

    Raises:
        InputError: a token id is not the model's, or a prompt is empty where there is no BOS.
    """
    eos = list(eos_token_ids(defaults, config)[:1])
    bos = bos_token_id(defaults, config)
    documents = []
    for example in tqdm(examples, unit=" examples", desc="tokenizing", leave=False, disable=None):
        try:
            given = () if example.prompt is None else prompt_tokens(tokenizer, example.prompt, bos)
            tokens = [*given, *_completion_tokens(tokenizer, example, given)]
            tokens += eos if tokens[-1:] != eos else []
            _check_ids(tokens, config.vocab_size)
        except InputError as error:
            raise InputError(f"{path}, {unit_of(path)} {example.number}: {error}") from error
        documents.append(Document(example.number, np.array(tokens, np.int32), len(given)))
    return documents


def shorten(
    documents: Iterable[Document], max_length: int, too_long: str | None = None
) -> tuple[list[Document], Counts]:
    """The documents that are trained on, none of them longer than `max_length`.

    A longer one is cut at its end or dropped as `too_long`, "cut" or "drop", says. If that is
    None a plain text is cut, and an example with a prompt dropped, whose answer would otherwise
    be learnt without its end. What is cut has no EOS token; what has nothing to learn is dropped.
    """
    kept, cut, dropped = [], 0, 0
    for document in documents:
        is_long = len(document.tokens) > max_length
        if is_long:
            document = dataclasses.replace(document, tokens=document.tokens[:max_length])
        may_be_cut = (too_long or ("drop" if document.given else "cut")) == "cut"
        if document.learnt < 1 or (is_long and not may_be_cut):
            dropped += 1
            continue
        cut += is_long
        kept.append(document)
    tokens = sum(len(document.tokens) for document in kept)
    learnt = sum(document.learnt for document in kept)
    return kept, Counts(len(kept) + dropped, cut, dropped, tokens, learnt)


def _completion_tokens(
    tokenizer: Tokenizer, example: Example, given: tuple[int, ...]
) -> Sequence[int]:
    if example.prompt is None:
        return tokenizer.encode(example.completion).ids
    whole = tokenizer.encode(example.prompt + example.completion).ids
    if tuple(whole[: len(given)]) == given:
        return whole[len(given) :]
    return tokenizer.encode(example.completion, add_special_tokens=False).ids


def _check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InputError(
            f"token id {wrong} is not in the model's vocabulary of {vocab_size}; "
            "the tokenizer or eos_token_id belongs to another model"
        )
