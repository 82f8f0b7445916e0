"""From examples to token ids, and which of them are learnt."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids
from neox_eqx.text.tokenizer import prompt_tokens
from neox_eqx.tokenizer import Tokenizer, token_ids
from neox_eqx.training.examples import Example, unit_of


@dataclasses.dataclass(frozen=True)
class Document:
    """The tokens of one example."""

    number: int
    """Of the example."""
    tokens: np.ndarray
    """int32, with the EOS token at the end, if the model has one."""
    is_learnt: np.ndarray
    """bool, of each token: False in a prompt. A text's first token is predicted by nothing, and
    is not learnt whatever this says."""

    @property
    def learnt(self) -> int:
        """The number of tokens that are learnt."""
        return int(self.is_learnt[1:].sum())

    def part(self, start: int, end: int) -> "Document":
        """The tokens from start to before end."""
        return Document(self.number, self.tokens[start:end], self.is_learnt[start:end])


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
        is_learnt = np.arange(len(tokens)) >= len(given)
        documents.append(Document(example.number, np.array(tokens, np.int32), is_learnt))
    return documents


def _completion_tokens(
    tokenizer: Tokenizer, example: Example, given: tuple[int, ...]
) -> Sequence[int]:
    if example.prompt is None:
        return token_ids(tokenizer, example.completion)
    whole = token_ids(tokenizer, example.prompt + example.completion)
    if whole[: len(given)] == given:
        return whole[len(given) :]
    return token_ids(tokenizer, example.completion, add_special_tokens=False)


def _check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InputError(
            f"token id {wrong} is not in the model's vocabulary of {vocab_size}; "
            "the tokenizer or eos_token_id belongs to another model"
        )
