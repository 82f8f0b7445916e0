"""Completions in a file, which an ended run can continue."""

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.sharding.distributed import agreed, broadcast
from neox_eqx.text.completion import Completion
from neox_eqx.text.failed import check_failed
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.prompts import Prompt, asked
from neox_eqx.text.resume import PartialRows
from neox_eqx.text.subject import subject_of_completions


def write_completions(
    generator: TextGenerator,
    prompts: Sequence[Prompt],
    options: Sequence[GenerationOptions],
    rows: PartialRows | None,
    *,
    batch_size: int,
) -> None:
    """Adds the missing completions to `rows`, which the first process has, and finishes the file.

    These run in the same batches as if no row had been there, so that they are the same to the bit.

    Raises:
        InputError: as `TextGenerator.generate`, or the rows there are of something else; or at the
            end, some failed, or all, and then nothing is written.
    """
    texts, requests = asked(generator.request, prompts, options)
    subject = subject_of_completions(generator, texts, requests)
    with agreed():
        if rows:
            rows.begin(subject)
    numbers = [
        number
        for number, request in enumerate(requests, 1)
        for _ in range(request.options.num_completions)
    ]
    failed: dict[int, Completion] = {}
    for index, completion in _missing(generator, texts, requests, rows, len(numbers), batch_size):
        if completion.error is not None:
            failed[index] = completion
        elif rows:
            rows.add(index, completion.fields())
    if len(failed) < len(numbers) and rows:
        for index, completion in failed.items():
            rows.add(index, completion.fields())
        rows.finish()
    check_failed(failed, numbers)


def _missing(
    generator: TextGenerator,
    texts: Sequence[str],
    requests: Sequence[Request],
    rows: PartialRows | None,
    count: int,
    batch_size: int,
) -> Iterator[tuple[int, Completion]]:
    """The completions of `count` that are not among the rows, with their indices."""
    there = broadcast(rows.are_there(count) if rows else np.zeros(count, bool))
    done = frozenset(np.flatnonzero(there).tolist())
    with tqdm(total=count, initial=len(done), unit=" completions", disable=None) as bar:
        for event in generator.events(texts, requests, batch_size, done=done):
            if event.completion:
                bar.update()
                yield event.row, event.completion
