"""From examples to token ids, and which of them are learnt."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids
from neox_eqx.text.named_template import NamedTemplate
from neox_eqx.text.template import ChatTemplate
from neox_eqx.text.tokenizer import prompt_tokens
from neox_eqx.tokenizer import Tokenizer, token_ids
from neox_eqx.training.data.examples import Example


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

    @property
    def asked(self) -> int:
        """How many tokens stand before the last run of learnt ones: what generation is given."""
        last = int(np.flatnonzero(self.is_learnt)[-1])
        before = np.flatnonzero(~self.is_learnt[:last])
        return int(before[-1]) + 1 if len(before) else 0

    def part(self, start: int, end: int) -> "Document":
        """The tokens from start to before end."""
        return Document(self.number, self.tokens[start:end], self.is_learnt[start:end])


def tokenize(
    examples: Sequence[Example],
    path: Path,
    tokenizer: Tokenizer,
    config: GPTNeoXConfig,
    defaults: Mapping[str, Any],
    template: ChatTemplate | None = None,
) -> list[Document]:
    """The documents of the examples, in their order.

    `path` is the file that errors name, and `defaults` are those of generation_config.json.
    `template` writes the examples that are messages, with their end; all others end with the EOS
    token.

    A text is given in pieces, such as a prompt and its completion. The text up to the end of each
    piece is tokenized, and the piece has the tokens that this adds. So the tokens of a prompt are
    those that generation would give the model. Where a token would reach over the beginning of a
    piece, the piece is tokenized alone.

    Raises:
        InputError: a token id is not the model's, a prompt is empty where there is no BOS, or the
            template refuses the messages.
    """
    eos = eos_token_ids(defaults, config)[:1]
    bos = bos_token_id(defaults, config)
    if isinstance(template, NamedTemplate):
        _check_end(template, tokenizer)
    documents = []
    for example in tqdm(examples, unit=" examples", desc="tokenizing", leave=False, disable=None):
        try:
            if example.messages:
                assert template
                pieces = template.render_learnt(example.messages)
                tokens, is_learnt = _encoded(tokenizer, pieces, bos, template.add_special_tokens)
            else:
                pieces = [(example.completion, True)]
                if example.prompt is not None:
                    pieces = [(example.prompt, False), *pieces]
                tokens, is_learnt = _encoded(tokenizer, pieces, bos)
                if tokens[-1:] != eos:
                    tokens, is_learnt = tokens + eos, is_learnt + [True] * len(eos)
            _check_ids(tokens, config.vocab_size)
        except InputError as error:
            where = f"{path}, {example.unit} {example.number}"
            raise InputError(f"{where}: {error}") from error
        documents.append(
            Document(example.number, np.array(tokens, np.int32), np.array(is_learnt, bool))
        )
    return documents


def _encoded(
    tokenizer: Tokenizer,
    pieces: Sequence[tuple[str, bool]],
    bos: int | None,
    add_special_tokens: bool = True,
) -> tuple[tuple[int, ...], list[bool]]:
    """The tokens of a text that is given in pieces, and for each whether its piece is learnt."""
    encode = partial(prompt_tokens, tokenizer, bos=bos, add_special_tokens=add_special_tokens)
    alike = itertools.groupby(pieces, key=lambda piece: piece[1])
    joined = [("".join(text for text, _ in own), learnt) for learnt, own in alike]
    whole_text = "".join(piece for piece, _ in joined)
    whole = encode(whole_text)
    tokens: tuple[int, ...] = ()
    is_learnt: list[bool] = []
    text = ""
    for piece, learnt in joined:
        text += piece
        alone = token_ids(tokenizer, piece, add_special_tokens=False) if tokens else ()
        together = tokens + alone
        # Where the whole text has these tokens too, the text up to here need not be encoded: in a
        # long conversation that would be done again with each turn.
        if not tokens or whole[: len(together)] != together:
            until = whole if text == whole_text else encode(text)
            together = until if until[: len(tokens)] == tokens else together
        tokens = together
        is_learnt += [learnt] * (len(tokens) - len(is_learnt))
    return tokens, is_learnt


def _check_end(template: NamedTemplate, tokenizer: Tokenizer) -> None:
    """Raises where an answer would not end with one token, which is what generation ends at."""
    eos = tokenizer.token_to_id(template.eos)
    if "{eos}" in template.answer and (
        eos is None or token_ids(tokenizer, f"a{template.eos}")[-1] != eos
    ):
        raise InputError(
            f"template {template.name}: ends what is said with {shown(template.eos, 40)}, which "
            "the tokenizer does not have; name its eos_token in tokenizer_config.json"
        )


def _check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InputError(
            f"token id {wrong} is not in the model's vocabulary of {vocab_size}; "
            "the tokenizer or eos_token_id belongs to another model"
        )
