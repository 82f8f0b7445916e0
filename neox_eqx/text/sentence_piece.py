"""A vocabulary of SentencePiece as a tokenizer."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import MOST_TOKENIZER_BYTES, read_bytes
from neox_eqx.text.added_tokens import read_added_tokens
from neox_eqx.text.tokenizer_class import flag
from neox_eqx.tokenizer import broken_as_input_error

_USUAL = ("spiece.model", "tokenizer.model", "spm.model", "sentencepiece.model")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The tokens of a text."""

    ids: list[int]


def sentencepiece_file(directory: Path) -> Path | None:
    """The SentencePiece model of a directory, if there is one.

    Raises:
        InputError: there are several, and none has a usual name.
    """
    found = sorted(path for path in directory.glob("*.model") if path.is_file())
    for name in _USUAL:
        if directory / name in found:
            return directory / name
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise InputError(f"{directory}: has several vocabularies, {names}; name one {_USUAL[0]}")
    return found[0] if found else None


class SentencePieceTokenizer:
    """SentencePiece's own ids and texts; nothing is added to either end of a text.

    Special tokens that are written in a text are the exception: SentencePiece would spell `</s>`
    letter by letter. transformers' `T5Tokenizer` (`use_fast=False`, as rinna's model cards ask for)
    splits a text at the tokens that tokenizer_config.json and its like name. Each of them is one
    id, and the stretches between them are encoded one by one. So it is here. `do_lower_case` is
    for these stretches; transformers reads it from no file, and the cards of rinna's older models
    set it by hand.

    Decoding with `skip_special_tokens` leaves out these tokens and SentencePiece's control
    symbols, but not the unknown token, which reads ⁇ as in SentencePiece.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]):
        """Reads the model at a path; `options` are the object of tokenizer_config.json.

        Raises:
            InputError: it is no SentencePiece model, ids collide, or the package is not there.
        """
        try:
            import sentencepiece
        except ImportError as error:
            raise InputError(
                f"{path}: reading it needs the package sentencepiece: pip install sentencepiece"
            ) from error
        model = read_bytes(path, MOST_TOKENIZER_BYTES)
        if not model:
            # SentencePiece would go on as if there was no model, and complain on stderr later.
            raise InputError(f"{path}: is not a SentencePiece model: it is empty")
        with broken_as_input_error(f"{path}: is not a SentencePiece model"):
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._size = self._pieces.get_piece_size()
            # A broken model may have pieces that are no UTF-8.
            self._texts = [self._pieces.id_to_piece(id) for id in range(self._size)]
        self._digest = hashlib.sha256(model).hexdigest()
        self._lower = flag(options, "do_lower_case")
        added = self._added(path, options)
        control = {id for id in range(self._size) if self._pieces.is_control(id)}
        special = {id for id, token in added.items() if token.special}
        self._special = (control | special) - {self._pieces.unk_id()}
        self._names = {id: self._texts[id] for id in control}
        self._names |= {id: token.content for id, token in added.items()}
        self._by_name = {*self._names} - {self._pieces.unk_id()}
        # Of two tokens that begin together, the longer one counts.
        whole = sorted(added, key=lambda id: -len(added[id].content))
        if flag(options, "split_special_tokens"):
            whole = [id for id in whole if not added[id].special]
        self._whole = whole
        self._pattern = re.compile("|".join(f"({_pattern(added[id])})" for id in whole))

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> Pieces:
        """The tokens of a text; `add_special_tokens` makes no difference."""
        ids: list[int] = []
        start = 0
        for match in self._pattern.finditer(text) if self._whole else ():
            assert match.lastindex
            ids += [*self._stretch(text[start : match.start()]), self._whole[match.lastindex - 1]]
            start = match.end()
        return Pieces([*ids, *self._stretch(text[start:])])

    def decode(self, ids: Sequence[int], /, skip_special_tokens: bool = True) -> str:
        """The text of tokens; ids that are no token's have none."""
        hidden = self._special if skip_special_tokens else ()
        shown = [id for id in map(int, ids) if self._has(id) and id not in hidden]
        return "".join(
            "".join(self._names[id] for id in run) if by_name else self._pieces.decode(list(run))
            for by_name, run in itertools.groupby(shown, self._by_name.__contains__)
        )

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """All tokens and their ids."""
        pieces = {piece: id for id, piece in enumerate(self._texts)}
        added = {name: id for id, name in self._names.items()} if with_added_tokens else {}
        return pieces | added

    def token_to_id(self, token: str, /) -> int | None:
        """The id of a token as the vocabulary spells it."""
        added = next((id for id, name in self._names.items() if name == token), None)
        return self._piece(token) if added is None else added

    def to_str(self) -> str:
        """All that ids and texts depend on, as JSON; `decoder` as in a tokenizer.json."""
        falls_back = any(self._pieces.is_byte(id) for id in range(self._size))
        about = {
            "model": self._digest,
            "lower": self._lower,
            "special": sorted(self._special),
            "names": self._names,
            "pattern": self._pattern.pattern,
            "decoder": {"type": "ByteFallback" if falls_back else "Metaspace"},
        }
        return json.dumps(about, ensure_ascii=False)

    def _stretch(self, text: str) -> list[int]:
        return self._pieces.encode(text.lower() if self._lower else text)

    def _has(self, id: int) -> bool:
        return 0 <= id < self._size or id in self._names

    def _piece(self, token: str) -> int | None:
        id = self._pieces.piece_to_id(token)
        # For what is no piece this is the unknown token's id, which a broken model may lack.
        return id if 0 <= id < self._size and self._texts[id] == token else None

    def _added(self, path: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
        """The tokens that the files name: pieces of the model, or further ones after these."""
        added = read_added_tokens(path.parent, options)
        declared = {token.content: id for id, token in added.by_id.items()}
        free = max([self._size, *(id + 1 for id in added.by_id)])
        tokens: dict[int, AddedToken] = {}
        for token in added.in_order({}, ()):
            piece, id = self._piece(token.content), declared.get(token.content)
            if id is None:
                id, free = (free, free + 1) if piece is None else (piece, free)
            elif piece != id and (piece is not None or id < self._size):
                its = piece if piece is not None else repr(self._texts[id])
                raise InputError(
                    f"{path}: {shown(token.content)} has the id {id} in the files beside it, and "
                    f"the model says {its}; correct the files"
                )
            tokens[id] = token
        return tokens


def _pattern(token: AddedToken) -> str:
    """A regular expression for a token with the space around it that it takes along."""
    text = re.escape(token.content)
    if token.single_word:
        text = rf"(?<!\w){text}(?!\w)"
    return (r"\s*" if token.lstrip else "") + text + (r"\s*" if token.rstrip else "")
