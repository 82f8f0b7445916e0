"""Continues the harness's contexts, up to the texts at which a task says they end."""

import dataclasses
from collections.abc import Iterator, Sequence

from lm_eval.models.utils import postprocess_generated_text

from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.memory import check_memory, free_bytes
from neox_eqx.generation.decoding.run import Request, Row, run
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.text.batches import batches
from neox_eqx.text.generator import TextGenerator
from neox_eqx.tokenizer import Tokenizer, text_of

_STRIDE = 16
"""How many tokens are generated between two checks of whether all rows have ended."""


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A request, and the texts at which its text ends.

    The harness looks for these in the generated text alone. Stop texts of generation may begin in
    the context, and so are something else.
    """

    request: Request
    until: tuple[str, ...]


def continue_texts(
    generator: TextGenerator, asked: Sequence[Continuation], *, batch_size: int
) -> Iterator[list[tuple[int, str | InputError]]]:
    """Yields each index with its text, or with why it has none, a batch at a time.

    All batches run one program.
    """
    requests = [own.request for own in asked]
    for batch in batches(requests, batch_size, in_order=False, bitwise=generator.bitwise):
        free = free_bytes(generator.model)
        check_memory(generator.model, batch.of(requests), free=free, batch_mates=batch.batch_mates)
        untils = [list(asked[index].until) for index in batch.indices]
        for rows in run(
            generator.model,
            batch.of(requests),
            Vocabulary(generator.eos_token_ids),
            stride=_STRIDE,
            pad_to=batch.pad_to,
            batch_mates=batch.batch_mates,
        ):
            texts = [
                _text(generator.tokenizer, row, until)
                for row, until in zip(rows, untils, strict=True)
            ]
            ended = [text for text in texts if text is not None]
            if len(ended) == len(texts):
                break
        yield list(zip(batch.indices, ended, strict=True))


def _text(tokenizer: Tokenizer, row: Row, until: list[str]) -> str | InputError | None:
    """The text of a row up to one of `until`, or the row's error; None while the row goes on."""
    try:
        text = text_of(tokenizer, list(row.tokens))
    except InputError as error:
        return error
    if any(stop and stop in text for stop in until):
        return postprocess_generated_text(text, until, None)
    if row.error is not None:
        return InputError(row.error)
    return postprocess_generated_text(text, until, None) if row.finish_reason else None
