"""Requests through the loop batch by batch, and what comes of each of their tokens."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

from tqdm import tqdm

from neox_eqx.generation.decoding.memory import check_memory, free_bytes
from neox_eqx.generation.decoding.run import Request, run
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.text.batches import batches
from neox_eqx.text.completion import Completion, Event, GrowingText
from neox_eqx.tokenizer import Tokenizer


def events_of(
    model: GPTNeoX,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    requests: Sequence[Request],
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    stride: int | None,
    bitwise: bool,
    done: Collection[int] = (),
    past: tuple[Segment, ...] = (),
) -> Iterator[Event]:
    """The events of all completions of requests, whose texts are the prompts.

    With a `stride`, of so many tokens, requests run in order. `vocabulary` and `past` are those
    of `run`.
    Completions that are `done`, by their numbers, are left out, and run only where another of
    their batch is not: what runs together decides the last bits.

    Raises:
        InputError: a batch needs more memory than is free, before anything runs; or as `run`.
    """
    groups = list(batches(requests, batch_size, in_order=stride is not None, bitwise=bitwise))
    free = free_bytes(model)
    for batch in groups:
        check_memory(
            model,
            batch.of(requests),
            free=free,
            batch_mates=batch.batch_mates,
            tokens_spelled=len(vocabulary.token_bytes),
        )
    texts = _texts(tokenizer, prompts, requests)
    counts = [request.options.num_completions for request in requests]
    firsts = list(itertools.accumulate(counts, initial=0))
    for batch in groups:
        numbers = [
            number for index in batch.indices for number in range(firsts[index], firsts[index + 1])
        ]
        if all(number in done for number in numbers):
            continue
        rows_of = run(
            model,
            batch.of(requests),
            vocabulary,
            past=past,
            stride=stride,
            pad_to=batch.pad_to,
            batch_mates=batch.batch_mates,
        )
        for rows in rows_of:
            for number, row in zip(numbers, rows, strict=True):
                if number not in done:
                    yield from texts[number].read(row)


def _texts(
    tokenizer: Tokenizer, prompts: Sequence[str], requests: Sequence[Request]
) -> list[GrowingText]:
    """One for each completion, in the order of the prompts."""
    completions = (
        (prompt, request, sample)
        for prompt, request in zip(prompts, requests, strict=True)
        for sample in range(request.options.num_completions)
    )
    return [GrowingText(tokenizer, number, *each) for number, each in enumerate(completions)]


def finished(events: Iterable[Event], total: int, *, progress: bool) -> list[Completion]:
    """The `total` completions that events bring, in order; with `progress` under a bar."""
    completions = {}
    hidden = None if progress else True
    with tqdm(total=total, unit=" completions", leave=None, disable=hidden) as bar:
        for event in events:
            if event.completion:
                completions[event.row] = event.completion
                bar.update()
    return [completions[number] for number in sorted(completions)]
