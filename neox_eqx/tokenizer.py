"""What this package needs of a tokenizer, and texts to ids and back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.unicode import check_unicode

MOST_IDS = 10_000_000
"""The highest id that is allowed; the largest vocabularies have a million tokens."""


# Of an id in a file; Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 20


@runtime_checkable
class Encoded(Protocol):
    """A text as tokens."""

    @property
    def ids(self) -> list[int]: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; a `tokenizers.Tokenizer` is one."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> Encoded:
        """The tokens of a text, with the special tokens around every text unless told otherwise."""

    def decode(self, ids: Sequence[int], /, skip_special_tokens: bool = True) -> str:
        """The text of tokens; ids that are no token's have none."""

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """All tokens and their ids."""

    def token_to_id(self, token: str, /) -> int | None:
        """The id of a token as the vocabulary spells it."""

    def to_str(self) -> str:
        """All that ids and texts depend on; equal for equal tokenizers."""


def id_of_text(text: str) -> int | None:
    """The token id in a key of a JSON object; None where the key is no id."""
    is_id = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_id else None


def check_vocabulary(vocabulary: Mapping[str, int], what: str) -> None:
    """Refuses ids above `MOST_IDS`: tables over all ids would fill the memory.

    Raises:
        InputError: an id is too high; begins with `what`, and names the token and its id.
    """
    for token, id in vocabulary.items():
        if not 0 <= id < MOST_IDS:
            raise InputError(
                f"{what}: gives the token {shown(token)} the id {id}, and ids are below "
                f"{MOST_IDS}; correct it"
            )


def token_ids(
    tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True, what: str = "the text"
) -> tuple[int, ...]:
    """The ids of a text, which `what` names in messages.

    Raises:
        InputError: it is not valid Unicode, or the tokenizer breaks down over it.
    """
    check_unicode(what, text)
    with broken_as_input_error(f"the tokenizer breaks down over {what} {text[:30]!r}"):
        return tuple(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def text_of(tokenizer: Tokenizer, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """The text of tokens; ids that are no token's have none.

    Raises:
        InputError: the tokenizer breaks down over it.
    """
    with broken_as_input_error("the tokenizer breaks down over the text of tokens"):
        return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


@contextmanager
def broken_as_input_error(message: str) -> Iterator[None]:
    """Whatever the tokenizer's library raises becomes an InputError that begins with `message`.

    The library raises no class narrower than Exception, and where its own code fails (a pattern
    of tokenizer.json that takes too long, for one) one that is not even that.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())
            raise InputError(f"{message}: {reason[:200]}") from error
        raise
