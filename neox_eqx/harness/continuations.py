"""Texts that go on from the harness's contexts, up to the texts at which they end."""

import dataclasses
from collections.abc import Iterator, Sequence

from lm_eval.models.utils import postprocess_generated_text

from neox_eqx.generation.run import Request, run
from neox_eqx.text.batches import batches
from neox_eqx.text.generator import TextGenerator

_STRIDE = 16
"""Tokens between two looks at whether every row of a batch has met a text to stop at."""


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A request, and the texts at which its text ends.

    The harness looks for them in what is generated alone, so they are no stop texts of generation,
    which may begin in the context.
    """

    request: Request
    until: tuple[str, ...]


def continue_texts(
    generator: TextGenerator, asked: Sequence[Continuation], *, batch_size: int
) -> Iterator[list[tuple[int, str]]]:
    """Yields the indices and the texts, a batch at a time; all batches run one program."""
    requests = [own.request for own in asked]
    for batch in batches(requests, batch_size, in_order=False, bitwise=generator.bitwise):
        untils = [list(asked[index].until) for index in batch.indices]
        for rows in run(
            generator.model,
            [requests[index] for index in batch.indices],
            eos=generator.eos_token_ids,
            stride=_STRIDE,
            multiple=batch.multiple,
            among=batch.among,
        ):
            texts = [generator.tokenizer.decode(list(row.tokens)) for row in rows]
            if all(
                row.finish_reason or any(stop and stop in text for stop in until)
                for row, text, until in zip(rows, texts, untils, strict=True)
            ):
                break
        cut = (postprocess_generated_text(*both, None) for both in zip(texts, untils, strict=True))
        yield list(zip(batch.indices, cut, strict=True))
