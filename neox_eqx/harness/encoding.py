"""The harness's texts as token ids, with the special tokens that its own model gives them."""

import dataclasses

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.tokenizer import Tokenizer, text_of, token_ids


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How texts become ids.

    Raises:
        InputError: `add_bos_token` is no yes or no, or there is no BOS to add.
    """

    tokenizer: Tokenizer
    prefix: int
    """The token that stands before a text without a context."""
    bos: int | None
    add_bos_token: bool | None
    """Whether BOS begins every text; where False, nothing does. None leaves it to the tokenizer."""

    def __post_init__(self) -> None:
        if self.add_bos_token not in (None, False, True):
            raise InputError(
                f"add_bos_token must be True or False, not {shown(self.add_bos_token)}"
            )
        if self.add_bos_token and self.bos is None:
            raise InputError("the model has no BOS token that add_bos_token could add")

    def ids(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """The ids of a text; one that begins with the prefix gets no second one, unless asked for.

        Raises:
            InputError: the text is not valid Unicode, or the tokenizer breaks down over it.
        """
        if add_special_tokens is None:
            prefix = text_of(self.tokenizer, [self.prefix], skip_special_tokens=False)
            add_special_tokens = not text.startswith(prefix) and self.add_bos_token is not False
        ids = list(token_ids(self.tokenizer, text, add_special_tokens=add_special_tokens))
        if (
            add_special_tokens
            and self.add_bos_token
            and self.bos is not None
            and ids[:1] != [self.bos]
        ):
            ids.insert(0, self.bos)
        return ids
