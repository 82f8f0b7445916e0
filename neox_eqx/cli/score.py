"""Scores texts: how likely a model finds each token of what is already written.

neox-eqx score --model MODEL --input texts.txt --output scores.jsonl
"""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from neox_eqx import InputError, TextGenerator
from neox_eqx.checkpoint.origin import TextOriginOptions
from neox_eqx.command_line import parse
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.scoring.encode import Text
from neox_eqx.scoring.lines import bad_lines, check_lines, encode_lines, read_texts
from neox_eqx.scoring.pairs import Pair
from neox_eqx.scoring.texts import TextScore, text_scores
from neox_eqx.sharding.distributed import (
    agreed,
    broadcast,
    check_equal,
    is_first,
    on_every_host,
)
from neox_eqx.text.resume import PartialRows, partial_rows
from neox_eqx.text.subject import digest, subject_of_model


@dataclasses.dataclass(frozen=True)
class Options:
    """Score texts: log-probabilities of their tokens under a model.

    Started again after it was ended, it goes on with the rows that it has in OUTPUT.partial.
    """

    model: str
    """A directory in Hugging Face or native layout, or a Hub id, also as ID@REVISION."""
    input: Path
    """A text a line, or .jsonl with "text", or "prompt" and "completion", on each line."""
    output: Path
    """Write the scores here, a JSON object a text, in the order of the texts."""
    batch_size: int = 8
    """Texts that run together."""
    top_candidates: int = 0
    """Also write so many of the likeliest tokens at each position, with their probabilities."""
    skip_bad: bool = False
    """Score the other lines where some cannot be, whose rows then say why; the status is 2."""
    origin: tyro.conf.OmitArgPrefixes[TextOriginOptions] = TextOriginOptions()
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of parameters and computation; float32 on a CPU, bfloat16 on an accelerator."""
    quantize: Literal["int8", "int4"] | None = None
    """Round the weights of the layers, and of a head that is not the embedding, to 8 or 4 bits."""
    cache_bits: Literal[8] | None = None
    """Keep keys and values in 8 bits."""
    mesh: str = "auto"
    """Devices to spread rows and model over, as data=2,model=4 or as neox-eqx plan prints it."""


def main(options: Options) -> None:
    with ExitStack() as stack:
        rows = None
        with agreed():
            if options.batch_size < 1 or options.top_candidates < 0:
                raise InputError("--batch-size must be at least 1, and --top-candidates at least 0")
            places, texts = zip(*read_texts(options.input), strict=True)
            check_lines(places, texts, skip_bad=options.skip_bad)
            if is_first():
                rows = stack.enter_context(partial_rows(options.output))
        check_equal("what to score", texts)
        generator = TextGenerator.load(
            options.model,
            **options.origin.arguments,
            dtype=options.dtype,
            mesh=options.mesh,
            quantize=options.quantize,
            cache_bits=options.cache_bits,
        )
        pairs = encode_lines(generator, texts)
        with agreed():
            check_lines(places, pairs, skip_bad=options.skip_bad)
        what = subject(generator.model, texts, pairs, options.top_candidates)
        with agreed():
            if rows:
                rows.begin(what)
        found = _score(options, generator.model, texts, pairs, rows)
        with agreed():
            check_lines(places, found, skip_bad=True)
        bad = bad_lines(places, found)
        if rows:
            for index in bad.keys() - rows.starts.keys():
                rows.add(index, {"finish_reason": "error", "error": bad[index]})
            rows.finish()
        with agreed():
            if bad:
                count = f"{len(bad)} of {len(texts)} lines could not be scored"
                raise InputError(
                    f"{count} and have an error in their rows, the first: {bad[min(bad)]}"
                )


def _score(
    options: Options,
    model: GPTNeoX,
    texts: Sequence[Text | InputError],
    pairs: Sequence[Pair | InputError],
    rows: PartialRows | None,
) -> list[Pair | InputError]:
    """Adds the missing texts' rows to `rows`, which the first process has.

    Returns the pairs, with an error in place of those that have no score.
    """
    found = list(pairs)
    there = broadcast(rows.are_there(len(texts)) if rows else np.zeros(len(texts), bool))
    good = [
        (index, text, pair)
        for index, (text, pair) in enumerate(zip(texts, pairs, strict=True))
        if not isinstance(text, InputError) and not isinstance(pair, InputError)
    ]
    done = {number for number, (index, _, _) in enumerate(good) if there[index]}
    scores = text_scores(
        model,
        [text for _, text, _ in good],
        [pair for _, _, pair in good],
        batch_size=options.batch_size,
        top_candidates=options.top_candidates,
        done=done,
    )
    tokens = [len(pair.tokens) for _, _, pair in good]
    with tqdm(total=sum(tokens), unit=" tokens", disable=None) as bar:
        bar.update(sum(tokens[number] for number in done))
        for number, score in scores:
            bar.update(score.num_tokens)
            index = good[number][0]
            if score.error is not None:
                found[index] = InputError(score.error)
            elif rows:
                rows.add(index, _row(score))
    return found


def subject(
    model: GPTNeoX,
    texts: Sequence[Text | InputError],
    pairs: Sequence[Pair | InputError],
    top_candidates: int,
) -> dict[str, str]:
    """All that the rows of these texts come from; by it a run that goes on knows its own rows.

    An error stands where there is no text, or no tokens that can be scored.
    """
    return {
        **subject_of_model(model),
        "input": digest(zip(texts, pairs, strict=True)),
        "number of candidates": str(top_candidates),
    }


def _row(score: TextScore) -> dict[str, Any]:
    """The score as the keys of a line, without those that are None."""
    row = dataclasses.asdict(score)
    return {name: row[name] for name in row if row[name] is not None}


def command(program: str, args: Sequence[str]) -> None:
    on_every_host(main)(parse(Options, program, args))
